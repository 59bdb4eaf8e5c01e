#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "daemon/loop/loop_share.h"
#include "devices/pci/pci_root.h"
#include "devices/virtio/device.h"
#include "devices/virtio/pci_transport.h"

namespace vmmd::vm {

/// The virtio devices of a machine, each with its transport at its place on the PCI bus. Belongs to the VM
/// thread; what it starts runs on the devices' loops.
class VirtioDevices {
 public:
  /// As long as a disk may take for what it has begun.
  static constexpr std::chrono::seconds kDrainLimit{10};
  /// `root` outlives this.
  explicit VirtioDevices(devices::PciRoot& root, std::chrono::milliseconds drain_limit = kDrainLimit)
      : root_(root), drain_limit_(drain_limit) {}
  /// pause() has succeeded since the last resume(), and no vCPU exists. Each device goes on its own loop.
  ~VirtioDevices();
  VirtioDevices(const VirtioDevices&) = delete;
  VirtioDevices& operator=(const VirtioDevices&) = delete;

  /// What the device of this slot is to work on; as long as this lives, and `loop` longer.
  [[nodiscard]] devices::EventLoop& share(unsigned slot, loop::DeviceLoop& loop);
  /// Paused. `glue` outlives this.
  Status add(unsigned slot, std::unique_ptr<devices::VirtioDevice> model, devices::VirtioPci::Glue glue);

  /// Returns when every request in flight is complete and no device touches RAM; all devices stop side by
  /// side. Internal if one takes longer than the limit, naming it and not those that only wait for its
  /// thread; all of them then run on, or those that have stopped stay so.
  enum class Others { RunOn, Stay };
  Status pause(Others others = Others::RunOn);
  void resume();

  /// The host's end of a device is not as it was (HostEnd::resize()): lets its model look. If it stands
  /// still, it looks when it goes on.
  void host_end_changed(unsigned slot);

  /// A device before its transport, as they are restored.
  [[nodiscard]] std::vector<devices::StateUnit*> units() const;
  /// Ids of the devices, paused, with requests that wait for the host.
  [[nodiscard]] std::vector<std::string> waiting_for_host() const;
  /// The first device of a type; nullptr: there is none.
  [[nodiscard]] devices::VirtioDevice* find(devices::VirtioType type) const;
  /// PCI device numbers.
  [[nodiscard]] std::vector<unsigned> slots() const;

 private:
  struct Place {
    unsigned slot = 0;
    const loop::LoopShare* share = nullptr;  // nullptr: nobody knows
    std::unique_ptr<devices::VirtioDevice> model;
    std::unique_ptr<devices::VirtioPci> transport;
  };
  [[nodiscard]] std::vector<std::string> to_blame(const std::vector<const Place*>& late) const;

  devices::PciRoot& root_;
  const std::chrono::milliseconds drain_limit_;
  std::deque<loop::LoopShare> shares_;
  std::vector<Place> places_;
};

}  // namespace vmmd::vm
