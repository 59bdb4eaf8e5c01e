#pragma once

#include "devices/chipset/power.h"

namespace vmmd::testing {

/// Counts what the guest asked for. For one thread.
struct FakePowerSink final : devices::PowerSink {
  void request_reset() override { ++resets; }
  void request_shutdown() override { ++shutdowns; }
  unsigned resets = 0;
  unsigned shutdowns = 0;
};

}  // namespace vmmd::testing
