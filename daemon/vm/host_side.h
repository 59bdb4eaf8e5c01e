#pragma once

#include <memory>
#include <string>

#include "api/config.h"
#include "base/result.h"
#include "daemon/loop/device_loop.h"
#include "devices/char_backend.h"

namespace vmmd::vm {

/// What a VM holds on the host between vm.create and vm.delete, whatever happens to the machine in between:
/// the device thread and the host's ends of serial port and debug console. A reboot keeps the pty, the
/// socket's client and what the file holds.
class HostSide {
 public:
  /// Opens what the configuration names. A new VM empties the files its consoles write to; a restored one
  /// goes on at their ends.
  enum class Life { New, Restored };
  static Result<std::unique_ptr<HostSide>> open(const api::VmConfig& config, Life life);
  HostSide(const HostSide&) = delete;
  HostSide& operator=(const HostSide&) = delete;

  [[nodiscard]] loop::DeviceLoop& loop() { return loop_; }
  [[nodiscard]] devices::CharBackend* serial() { return serial_.get(); }  // nullptr: no serial port
  [[nodiscard]] devices::CharBackend* debug_console() { return debug_console_.get(); }

  /// Lets what the guest has written reach the host, for a bounded time.
  void drain_output();

 private:
  HostSide() = default;

  loop::DeviceLoop loop_;  // outlives the backends
  std::unique_ptr<devices::CharBackend> serial_;
  std::unique_ptr<devices::CharBackend> debug_console_;
};

}  // namespace vmmd::vm
