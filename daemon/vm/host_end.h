#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "api/config.h"
#include "base/result.h"
#include "devices/chipset/power.h"
#include "devices/clock.h"
#include "devices/device_events.h"
#include "devices/event_loop.h"
#include "devices/guest_memory.h"
#include "devices/memory_reclaim.h"
#include "devices/virtio/device.h"

namespace vmmd::vm {

/// What a device model is built with; all of it outlives the model.
struct DeviceGlue {
  const devices::GuestMemory& memory;
  devices::Clock& clock;            // its timers run on the device thread, whatever `loop` is
  devices::EventLoop& loop;         // the device thread; or the device's own, if it asked for one
  devices::DeviceEvents& events;    // for failures of the host end
  devices::MemoryReclaim& reclaim;  // for pages that the guest gives back
  devices::PowerSink& power;        // for devices that reset the machine
};

/// A thread for one device alone.
struct OwnLoop {
  std::vector<unsigned> cpus;  // of the host, where it may run; empty: on all
};

/// What one configured virtio device holds on the host: its file, tap or socket. Opened at vm.create or
/// vm.restore, closed at vm.delete; a reboot builds a new model on the same host end.
class HostEnd {
 public:
  virtual ~HostEnd() = default;
  /// The model for a new machine; the one for the machine before is gone. On the VM thread.
  virtual Result<std::unique_ptr<devices::VirtioDevice>> make_device(const DeviceGlue& glue) = 0;

  /// Whether the device shall have a thread of its own, because it would hold up those that share one, or its
  /// configuration says where it may run; nothing: it shares the device thread. Asked once.
  [[nodiscard]] virtual std::optional<OwnLoop> own_loop() const { return std::nullopt; }

  /// The file of a snapshot that what this end holds goes into; empty: there is none. The same name brings it
  /// back at vm.restore (HostGlue::snapshot_files).
  [[nodiscard]] virtual std::string snapshot_file() const { return {}; }
  /// Is all there that the guest believes to be there? No snapshot is made of what is not.
  [[nodiscard]] virtual Status check_whole() const { return {}; }
  /// Writes it into the empty file `fd`. While the machine is paused. A Conflict soon after `cancel` comes.
  [[nodiscard]] virtual Status save_file(int /*fd*/, const std::stop_token& /*cancel*/) const { return {}; }
  /// Makes what is behind the device as large; its model is told by its owner. BadRequest if it cannot be.
  virtual Status resize(std::uint64_t /*bytes*/) {
    return fail(ErrorCode::BadRequest, "this device has no size that can be changed");
  }
  /// Puts what only the open end knows into the configuration that vm.info shows: a pty's path.
  virtual void describe(api::VmConfig& shown) const { static_cast<void>(shown); }
  /// Lets what the guest has written reach the host, for a bounded time. The vCPUs are gone.
  virtual void drain(std::chrono::milliseconds limit) { static_cast<void>(limit); }
  /// Memory that the guest sees above its RAM (memory::place_above_ram()), as KVM maps it; constant. No
  /// device reads or writes it, and no snapshot holds it.
  [[nodiscard]] virtual std::vector<devices::GuestRegion> memory() const { return {}; }
};

}  // namespace vmmd::vm
