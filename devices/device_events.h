#pragma once

#include <cstdint>
#include <string_view>

namespace vmmd::devices {

/// Told of what a device's owner should know and the guest cannot tell him. Thread-safe; only queues: never
/// blocks, never calls back into the device. Devices tell of changes, never of each failed request.
class DeviceEvents {
 public:
  virtual ~DeviceEvents() = default;
  /// The host's end of a device does not work any more: its tap is gone, its peer has hung up, its disk
  /// fails. `unit` is the device's unit name, `what` for people: what failed and why.
  virtual void backend_failed(std::string_view unit, std::string_view what) = 0;
  /// The host has no room for a write of the guest, which waits for some: for the device to be paused and
  /// resumed.
  virtual void disk_full(std::string_view unit, std::string_view what) = 0;
  /// The driver, or the device for a reason that lies on the host, cannot go on before the driver resets the
  /// device; for the `times`th time, 1, 2, 4, 8 and so on.
  virtual void needs_reset(std::string_view unit, std::string_view reason, std::uint64_t times) = 0;
  /// The guest has not answered for too long and is about to be reset.
  virtual void watchdog_expired(std::string_view unit, std::string_view what) = 0;
};

}  // namespace vmmd::devices
