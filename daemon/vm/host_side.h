#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "api/config.h"
#include "api/net_fds.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "daemon/loop/device_loop.h"
#include "daemon/vm/host_end.h"
#include "devices/char_backend.h"

namespace vmmd::vm {

/// What a VM holds on the host between vm.create and vm.delete, whatever happens to the machine in between:
/// the device threads and the host's ends of serial port, debug console and virtio devices. A reboot keeps
/// the pty, the socket's client and what the file holds.
class HostSide {
 public:
  /// Opens what the configuration names, of the virtio devices those that have a place (see allot_places()):
  /// a device without one was not there when the VM was created. A new VM empties the files its consoles
  /// write to; a restored one goes on at their ends.
  /// Networks that get their taps as descriptors find them in `fds`.
  enum class Life { New, Restored };
  static Result<std::unique_ptr<HostSide>> open(const api::VmConfig& config, Life life,
                                                api::FdsById fds = {});
  /// A VM from a snapshot with these files: each belongs to a device, or the restore is refused.
  static Result<std::unique_ptr<HostSide>> restore(const api::VmConfig& config,
                                                   std::map<std::string, UniqueFd> files,
                                                   api::FdsById fds = {});
  HostSide(const HostSide&) = delete;
  HostSide& operator=(const HostSide&) = delete;

  [[nodiscard]] loop::DeviceLoop& loop() { return loop_; }
  [[nodiscard]] devices::CharBackend* serial() { return serial_.get(); }  // nullptr: no serial port
  [[nodiscard]] devices::CharBackend* debug_console() { return debug_console_.get(); }

  /// A virtio device and its PCI device number.
  struct Device {
    unsigned slot = 0;
    std::unique_ptr<loop::DeviceLoop> loop;  // its own; nullptr: it shares the device thread
    std::unique_ptr<HostEnd> end;
  };
  [[nodiscard]] const std::vector<Device>& devices() const { return devices_; }

  /// nullptr: there is no device with this number.
  [[nodiscard]] HostEnd* find(unsigned slot) const;

  /// The end of what memory devices show the guest above its RAM; 0 if none does.
  [[nodiscard]] std::uint64_t memory_end() const;

  /// Puts what only the open ends know into the configuration that vm.info shows.
  void describe(api::VmConfig& shown) const;
  /// Lets what the guest has written reach the host, for a bounded time.
  void drain_output();

 private:
  HostSide() = default;
  static Result<std::unique_ptr<HostSide>> open(const api::VmConfig& config, Life life,
                                                std::map<std::string, UniqueFd>* files, api::FdsById& fds);
  Status open_devices(api::VmConfig config, Life life, std::map<std::string, UniqueFd>* files,
                      api::FdsById& fds);

  loop::DeviceLoop loop_;  // outlives the backends
  std::unique_ptr<devices::CharBackend> serial_;
  std::unique_ptr<devices::CharBackend> debug_console_;
  std::vector<Device> devices_;
};

}  // namespace vmmd::vm
