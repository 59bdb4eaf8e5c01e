#include "daemon/vm/device_table.h"

#include <array>
#include <set>

#include <fmt/format.h>

#include "daemon/vm/balloon_end.h"
#include "daemon/vm/console_end.h"
#include "daemon/vm/disk_end.h"
#include "daemon/vm/net_end.h"
#include "daemon/vm/pmem_end.h"
#include "daemon/vm/rng_end.h"
#include "daemon/vm/vsock_end.h"
#include "daemon/vm/watchdog_end.h"
#include "devices/pci/pci_root.h"

namespace vmmd::vm {

namespace {

constexpr unsigned kSlots = devices::PciRoot::kSlots;
// "watchdog": true says nothing else, so there is nowhere to write down which place it got.
constexpr unsigned kWatchdogSlot = kSlots - 1;

template <class End>
ConfiguredDevice device(std::string pointer, std::string_view id_prefix, auto& config) {
  return {std::move(pointer), id_prefix, &config.pci,
          [&config](const HostGlue&) { return End::open(config); }};
}

Status claim_slots(const std::vector<ConfiguredDevice>& devices, std::array<std::string, kSlots>& owners) {
  for (const ConfiguredDevice& device : devices) {
    if (!device.slot()) continue;
    const unsigned slot = *device.slot();
    if (slot == 0 || slot >= kSlots) {
      return fail(ErrorCode::BadRequest, "{}/pci_device_id: {} is not from 1 to {}", device.pointer, slot,
                  kSlots - 1);
    }
    if (!owners.at(slot).empty()) {
      return fail(ErrorCode::Conflict, "{}/pci_device_id: {} is that of {} already", device.pointer, slot,
                  owners.at(slot));
    }
    owners.at(slot) = device.pointer;
  }
  return {};
}

std::string free_id(std::string_view prefix, const std::set<std::string>& taken) {
  for (unsigned number = 0;; ++number) {
    auto id = fmt::format("_{}{}", prefix, number);
    if (!taken.contains(id)) return id;
  }
}

}  // namespace

std::vector<ConfiguredDevice> configured_devices(api::VmConfig& config) {
  std::vector<ConfiguredDevice> devices;
  const auto groups = std::make_shared<RateLimitGroups>(config.rate_limit_groups);
  for (std::size_t i = 0; i < config.disks.size(); ++i) {
    api::DiskConfig& disk = config.disks[i];
    devices.push_back({fmt::format("/disks/{}", i), "disk", &disk.pci, [&disk, groups](const HostGlue& glue) {
                         return DiskEnd::open(disk, groups, glue.snapshot_files);
                       }});
  }
  for (std::size_t i = 0; i < config.net.size(); ++i) {
    devices.push_back({fmt::format("/net/{}", i), "net", &config.net[i].pci,
                       [&net = config.net[i]](const HostGlue& glue) { return NetEnd::open(net, glue.fds); }});
  }
  for (std::size_t i = 0; i < config.pmem.size(); ++i) {
    devices.push_back(
        {fmt::format("/pmem/{}", i), "pmem", &config.pmem[i].pci,
         [&config, i](const HostGlue& glue) { return PmemEnd::open(config, i, glue.snapshot_files); }});
  }
  devices.push_back(device<RngEnd>("/rng", "", config.rng));
  if (config.vsock) devices.push_back(device<VsockEnd>("/vsock", "", *config.vsock));
  if (config.console.mode != api::ConsoleMode::Off) {
    devices.push_back(
        {"/console", "", &config.console.pci, [&console = config.console](const HostGlue& glue) {
           return ConsoleEnd::open(console, glue.loop, glue.restored);
         }});
  }
  if (config.balloon) {
    devices.push_back({"/balloon", "", &config.balloon->pci, [&balloon = *config.balloon](const HostGlue&) {
                         return Result<std::unique_ptr<HostEnd>>(std::make_unique<BalloonEnd>(balloon));
                       }});
  }
  if (config.watchdog) {
    devices.push_back(
        {"/watchdog", "", nullptr,
         [](const HostGlue&) { return Result<std::unique_ptr<HostEnd>>(std::make_unique<WatchdogEnd>()); },
         kWatchdogSlot});
  }
  return devices;
}

Status allot_places(api::VmConfig& config) {
  const std::vector<ConfiguredDevice> devices = configured_devices(config);
  std::array<std::string, kSlots> owners{"the host bridge"};
  VMMD_TRY(claim_slots(devices, owners));
  std::set<std::string> ids;
  for (const ConfiguredDevice& device : devices) {
    if (device.pci != nullptr) ids.insert(device.pci->id.value_or(""));
  }
  for (const ConfiguredDevice& device : devices) {
    if (device.pci == nullptr) continue;
    if (!device.pci->id && !device.id_prefix.empty()) {
      device.pci->id = free_id(device.id_prefix, ids);
      ids.insert(*device.pci->id);
    }
    if (device.pci->pci_device_id) continue;
    unsigned slot = 1;
    while (slot < kSlots && !owners.at(slot).empty()) ++slot;
    if (slot == kSlots) {
      return fail(ErrorCode::Conflict, "{}: there is no room for more than {} PCI devices", device.pointer,
                  kSlots - 1);
    }
    device.pci->pci_device_id = static_cast<std::uint8_t>(slot);
    owners.at(slot) = device.pointer;
  }
  return {};
}

}  // namespace vmmd::vm
