#include "devices/pci/pci_root.h"

#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {

// CONFIG_ADDRESS, PCI Local Bus 3.0, 3.2.2.3.2.
constexpr std::uint32_t kEnable = 1U << 31;
constexpr std::uint32_t kAddressMask = kEnable | 0x00ff'fffc;
constexpr std::uint64_t kDataOffset = 4;

// A place in configuration space, as ECAM lays it out (PCI Express 6.0, 7.2.2).
constexpr unsigned kBusShift = 20;
constexpr unsigned kSlotShift = 15;
constexpr unsigned kFunctionShift = 12;
constexpr unsigned kRegisterMask = 0xfff;

/// Where the data port at `offset` (4..7) leads. CONFIG_ADDRESS has bus, device and function 4 bits lower.
constexpr std::uint64_t location_of(std::uint32_t address, std::uint64_t offset) {
  return (std::uint64_t{address & 0x00ff'ff00} << 4) | (address & 0xfc) | (offset - kDataOffset);
}

// The host bridge that Cloud Hypervisor's guests see: Intel, class 06 (bridge), subclass 00 (host).
constexpr ConfigSpace::Identity kHostBridge{
    .vendor_id = 0x8086, .device_id = 0x0d57, .class_code = 0x06'0000};

constexpr bool is_natural(std::uint64_t offset, unsigned width) {
  return (width == 1 || width == 2 || width == 4) && offset % width == 0;
}

}  // namespace

PciRoot::HostBridge::HostBridge() : space(kHostBridge) {}

std::uint32_t PciRoot::HostBridge::read_config(unsigned offset, unsigned width) {
  return space.read(offset, width);
}

void PciRoot::HostBridge::write_config(unsigned offset, unsigned width, std::uint32_t value) {
  space.write(offset, width, value);
}

PciRoot::PciRoot() {
  slots_[0] = &host_bridge_;
}

Status PciRoot::add_device(unsigned slot, PciDevice* device) {
  const std::lock_guard lock(mutex_);
  if (slot >= kSlots) {
    return fail(ErrorCode::BadRequest, "no PCI slot {} for {}: slots are 1 to {}", slot, device->pci_name(),
                kSlots - 1);
  }
  if (const PciDevice* other = slots_.at(slot)) {
    return fail(ErrorCode::Conflict, "PCI slot {} is taken by {}, {} cannot have it", slot, other->pci_name(),
                device->pci_name());
  }
  slots_.at(slot) = device;
  return {};
}

Status PciRoot::remove_device(unsigned slot) {
  const std::lock_guard lock(mutex_);
  if (slot == 0 || slot >= kSlots || slots_.at(slot) == nullptr) {
    return fail(ErrorCode::NotFound, "no removable device in PCI slot {}", slot);
  }
  slots_.at(slot) = nullptr;
  return {};
}

Result<unsigned> PciRoot::free_slot() const {
  const std::lock_guard lock(mutex_);
  for (unsigned slot = 0; slot < kSlots; ++slot) {
    if (slots_.at(slot) == nullptr) return slot;
  }
  return fail(ErrorCode::Conflict, "all {} PCI slots are taken", kSlots);
}

PciDevice* PciRoot::find(std::uint64_t location) const {
  const bool on_bus_0 = (location >> kBusShift) == 0;
  const bool function_0 = ((location >> kFunctionShift) & 7) == 0;
  return on_bus_0 && function_0 ? slots_.at((location >> kSlotShift) & (kSlots - 1)) : nullptr;
}

std::uint32_t PciRoot::read_config(std::uint64_t location, unsigned width) {
  PciDevice* device = find(location);
  if (device == nullptr) return static_cast<std::uint32_t>(all_ones(width));
  return device->read_config(location & kRegisterMask, width);
}

void PciRoot::write_config(std::uint64_t location, unsigned width, std::uint32_t value) {
  PciDevice* device = find(location);
  if (device != nullptr) device->write_config(location & kRegisterMask, width, value);
}

std::uint64_t PciRoot::Ecam::read(std::uint64_t offset, unsigned width) {
  if (!is_natural(offset, width)) return all_ones(width);
  const std::lock_guard lock(root_.mutex_);
  return root_.read_config(offset, width);
}

void PciRoot::Ecam::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (!is_natural(offset, width)) return;
  const std::lock_guard lock(root_.mutex_);
  root_.write_config(offset, width, static_cast<std::uint32_t>(value));
}

std::uint64_t PciRoot::Ports::read(std::uint64_t offset, unsigned width) {
  if (!is_natural(offset, width)) return all_ones(width);
  const std::lock_guard lock(root_.mutex_);
  const std::uint32_t address = root_.state_.address;
  if (offset == 0 && width == 4) return address;
  if (offset < kDataOffset || (address & kEnable) == 0) return all_ones(width);
  return root_.read_config(location_of(address, offset), width);
}

void PciRoot::Ports::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (!is_natural(offset, width)) return;
  const std::lock_guard lock(root_.mutex_);
  const std::uint32_t address = root_.state_.address;
  if (offset == 0 && width == 4) {
    root_.state_.address = static_cast<std::uint32_t>(value) & kAddressMask;
  } else if (offset >= kDataOffset && (address & kEnable) != 0) {
    root_.write_config(location_of(address, offset), width, static_cast<std::uint32_t>(value));
  }
}

Result<UnitState> PciRoot::save() const {
  const std::lock_guard lock(mutex_);
  const auto& [address] = state_;
  state::PciRoot message;
  message.set_address(address);
  message.set_host_bridge(host_bridge_.space.save());
  return pack_state(message);
}

Status PciRoot::restore(const UnitState& state) {
  state::PciRoot message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  if ((message.address() & ~kAddressMask) != 0) {
    return fail(ErrorCode::BadRequest, "unit {}: impossible configuration address {:#x}", unit_name(),
                message.address());
  }
  const std::lock_guard lock(mutex_);
  VMMD_TRY(host_bridge_.space.check(message.host_bridge(), unit_name(), host_bridge_.pci_name()));
  State next;
  auto& [address] = next;
  address = message.address();
  state_ = next;
  host_bridge_.space.restore(message.host_bridge());
  return {};
}

void PciRoot::reset() {
  const std::lock_guard lock(mutex_);
  state_ = {};
  host_bridge_.space = ConfigSpace(kHostBridge);
}

}  // namespace vmmd::devices
