#include "daemon/snapshot/restorable/unit_names.h"

#include <string_view>

#include <fmt/format.h>

namespace vmmd::snapshot {

namespace {

// A virtio device and its transport. One without a place on the bus was not there when the VM was created.
void add(std::set<std::string>& names, const api::PciDeviceConfig& pci, std::string_view kind) {
  if (!pci.pci_device_id) return;
  std::string name(kind);
  if (kind.ends_with(':')) name += pci.id.value_or("");
  names.insert(name + "/pci");
  names.insert(std::move(name));
}

}  // namespace

std::set<std::string> unit_names(const api::VmConfig& config) {
  std::set<std::string> names = {"vm",        "pci", "i8042", "acpi-power", "acpi-pm-timer",
                                 "post-code", "ged", "rtc",   "vmgenid",    "ioapic"};
  for (unsigned i = 0; i < config.cpus.boot_vcpus; ++i) names.insert(fmt::format("vcpu{}", i));
  if (config.serial.mode != api::ConsoleMode::Off) names.insert("serial0");
  if (config.platform.pc) names.insert({"pit", "pic", "speaker", "dma-page", "acpi-pm1"});
  for (const auto& disk : config.disks) add(names, disk.pci, "disk:");
  for (const auto& net : config.net) add(names, net.pci, "net:");
  for (const auto& pmem : config.pmem) add(names, pmem.pci, "pmem:");
  add(names, config.rng.pci, "rng");
  if (config.console.mode != api::ConsoleMode::Off) add(names, config.console.pci, "console");
  if (config.vsock) add(names, config.vsock->pci, "vsock");
  if (config.balloon) add(names, config.balloon->pci, "balloon");
  if (config.watchdog) names.insert({"watchdog", "watchdog/pci"});
  return names;
}

}  // namespace vmmd::snapshot
