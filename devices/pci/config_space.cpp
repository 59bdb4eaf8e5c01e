#include "devices/pci/config_space.h"

#include <algorithm>

namespace vmmd::devices {

namespace {
constexpr std::uint32_t kStatusErrors = 0xf900;  // PCI 3.0, 6.2.3: parity, aborts, system error
}

ConfigSpace::ConfigSpace(const Identity& identity) {
  set(kPciVendorId, 2, identity.vendor_id);
  set(kPciDeviceId, 2, identity.device_id);
  set(kPciRevision, 1, identity.revision);
  set(kPciClass, 1, identity.class_code);
  set(kPciClass + 1, 2, identity.class_code >> 8);
  set(kPciSubsystemVendorId, 2, identity.subsystem_vendor_id);
  set(kPciSubsystemId, 2, identity.subsystem_id);
  set_writable(kPciCommand, 2,
               kPciCommandIo | kPciCommandMemory | kPciCommandBusMaster | kPciCommandParity |
                   kPciCommandSerr | kPciCommandIntxDisable);
  set_write_one_to_clear(kPciStatus, 2, kStatusErrors);
  set_writable(kPciCacheLineSize, 1, 0xff);
  set_writable(kPciLatencyTimer, 1, 0xff);
  set_writable(kPciInterruptLine, 1, 0xff);
}

std::uint32_t ConfigSpace::read(unsigned offset, unsigned width) const {
  std::uint32_t value = 0;
  if (offset >= kKept) return value;  // aligned, so it is all there or none of it
  for (unsigned i = 0; i < width; ++i) value |= std::uint32_t{bytes_.at(offset + i)} << (8 * i);
  return value;
}

void ConfigSpace::write(unsigned offset, unsigned width, std::uint32_t value) {
  if (offset >= kKept) return;
  for (unsigned i = 0; i < width; ++i) {
    const auto byte = static_cast<std::uint8_t>(value >> (8 * i));
    std::uint8_t& target = bytes_.at(offset + i);
    const std::uint8_t writable = writable_.at(offset + i);
    const std::uint8_t cleared = write_one_to_clear_.at(offset + i) & byte;
    target = static_cast<std::uint8_t>(((target & ~writable) | (byte & writable)) & ~cleared);
  }
}

void ConfigSpace::set(unsigned offset, unsigned width, std::uint32_t value) {
  for (unsigned i = 0; i < width; ++i) bytes_.at(offset + i) = static_cast<std::uint8_t>(value >> (8 * i));
}

void ConfigSpace::set_writable(unsigned offset, unsigned width, std::uint32_t mask) {
  for (unsigned i = 0; i < width; ++i) writable_.at(offset + i) = static_cast<std::uint8_t>(mask >> (8 * i));
}

void ConfigSpace::set_write_one_to_clear(unsigned offset, unsigned width, std::uint32_t mask) {
  for (unsigned i = 0; i < width; ++i) {
    write_one_to_clear_.at(offset + i) = static_cast<std::uint8_t>(mask >> (8 * i));
  }
}

std::string ConfigSpace::save() const {
  const auto end = std::find_if(bytes_.rbegin(), bytes_.rend(), [](std::uint8_t b) { return b != 0; }).base();
  return {bytes_.begin(), end};
}

Status ConfigSpace::check(std::string_view bytes, std::string_view unit, std::string_view function) const {
  if (bytes.size() > kKept) {
    return fail(ErrorCode::BadRequest, "unit {}: {} has {} bytes of configuration space, at most {} exist",
                unit, function, bytes.size(), kKept);
  }
  for (unsigned i = 0; i < kKept; ++i) {
    const auto saved = i < bytes.size() ? static_cast<std::uint8_t>(bytes[i]) : std::uint8_t{0};
    const auto fixed = static_cast<std::uint8_t>(~(writable_.at(i) | write_one_to_clear_.at(i)));
    if (((saved ^ bytes_.at(i)) & fixed) != 0) {
      return fail(ErrorCode::BadRequest,
                  "unit {}: {} was another device: configuration register {:#x} is {:#04x} in the snapshot, "
                  "{:#04x} here",
                  unit, function, i, saved, bytes_.at(i));
    }
  }
  return {};
}

void ConfigSpace::restore(std::string_view bytes) {
  bytes_.fill(0);
  std::transform(bytes.begin(), bytes.end(), bytes_.begin(),
                 [](char c) { return static_cast<std::uint8_t>(c); });
}

}  // namespace vmmd::devices
