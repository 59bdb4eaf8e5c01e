#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/config.h"
#include "api/net_fds.h"
#include "base/unique_fd.h"
#include "daemon/loop/device_loop.h"
#include "daemon/vm/host_end.h"

namespace vmmd::vm {

/// Files of the snapshot that a VM comes from, by their names; whose file it is takes it out.
using SnapshotFiles = std::map<std::string, UniqueFd>;

/// What a host end is opened with; it outlives the host end.
struct HostGlue {
  loop::DeviceLoop& loop;  // the device thread
  bool restored = false;   // the VM comes from a snapshot: go on with files, do not empty them
  SnapshotFiles* snapshot_files = nullptr;  // nullptr: the VM does not come from a snapshot just now
  api::FdsById* fds = nullptr;              // of networks, by their ids; nullptr: none were passed
};

/// One PCI device that a configuration asks for.
struct ConfiguredDevice {
  std::string pointer;         // in the configuration: "/disks/0"
  std::string_view id_prefix;  // of the id that it gets if it has none; empty: it is the only one of its kind
  api::PciDeviceConfig* pci;   // its id and place; points into the configuration; nullptr: it has fixed_slot
  std::function<Result<std::unique_ptr<HostEnd>>(const HostGlue&)> open;
  unsigned fixed_slot = 0;  // of a device that has no place in the configuration
  /// Its PCI device number, if it has one yet.
  [[nodiscard]] std::optional<unsigned> slot() const {
    if (pci == nullptr) return fixed_slot;
    return pci->pci_device_id;
  }
};

/// All of them, in the order in which they get places. The one list of device kinds: a new one is a line
/// here, a host end, a model and its unit's message. `config` outlives what is returned.
[[nodiscard]] std::vector<ConfiguredDevice> configured_devices(api::VmConfig& config);

/// Gives each device that has none an id and a PCI device number, the lowest that is free. Once, when a VM is
/// created: from then on they are part of its configuration, so that no device is ever renamed. Conflict if
/// two devices ask for one place or there are more than 31.
Status allot_places(api::VmConfig& config);

}  // namespace vmmd::vm
