#pragma once

#include <cstdint>
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

  void disk_full(std::string_view unit, std::string_view what) override {
    full.push_back(std::string(unit) + ": " + std::string(what));
  }

  void watchdog_expired(std::string_view unit, std::string_view what) override {
    expirations.push_back(std::string(unit) + ": " + std::string(what));
  }

  void needs_reset(std::string_view unit, std::string_view reason, std::uint64_t times) override {
    resets.push_back(std::string(unit) + ": " + std::string(reason) + ", " + std::to_string(times));
  }

  std::vector<std::string> failures;
  std::vector<std::string> resets;
  std::vector<std::string> full;
  std::vector<std::string> expirations;
};

}  // namespace vmmd::testing
