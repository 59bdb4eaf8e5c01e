#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "devices/device_events.h"

namespace vmmd::testing {

/// Remembers "unit: what".
class FakeDeviceEvents final : public devices::DeviceEvents {
 public:
  void backend_failed(std::string_view unit, std::string_view what) override {
    failures.push_back(std::string(unit) + ": " + std::string(what));
  }

  std::vector<std::string> failures;
};

}  // namespace vmmd::testing
