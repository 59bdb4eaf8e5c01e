#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace vmmd::devices {

// Offsets in a type 0 header (PCI Local Bus 3.0, 6.1).
inline constexpr unsigned kPciVendorId = 0x00;
inline constexpr unsigned kPciDeviceId = 0x02;
inline constexpr unsigned kPciCommand = 0x04;
inline constexpr unsigned kPciStatus = 0x06;
inline constexpr unsigned kPciRevision = 0x08;
inline constexpr unsigned kPciClass = 0x09;  // prog-if, subclass, class
inline constexpr unsigned kPciCacheLineSize = 0x0c;
inline constexpr unsigned kPciLatencyTimer = 0x0d;
inline constexpr unsigned kPciHeaderType = 0x0e;
inline constexpr unsigned kPciBar0 = 0x10;
inline constexpr unsigned kPciSubsystemVendorId = 0x2c;
inline constexpr unsigned kPciSubsystemId = 0x2e;
inline constexpr unsigned kPciCapabilities = 0x34;
inline constexpr unsigned kPciInterruptLine = 0x3c;
inline constexpr unsigned kPciInterruptPin = 0x3d;

inline constexpr std::uint16_t kPciCommandIo = 1U << 0;
inline constexpr std::uint16_t kPciCommandMemory = 1U << 1;
inline constexpr std::uint16_t kPciCommandBusMaster = 1U << 2;
inline constexpr std::uint16_t kPciCommandParity = 1U << 6;
inline constexpr std::uint16_t kPciCommandSerr = 1U << 8;
inline constexpr std::uint16_t kPciCommandIntxDisable = 1U << 10;

/// 4 KiB of a function's configuration registers: the bytes, which bits of them the guest may write, and
/// which it clears by writing one. Everything else is read-only, and reads zero unless set. Not locked.
///
/// Only the conventional 256 bytes are kept: no device of ours has extended capabilities, and the zeros of 4
/// KiB, their masks and copies were 24 KiB of every device in every clone.
class ConfigSpace {
 public:
  static constexpr unsigned kSize = 4096;
  static constexpr unsigned kKept = 256;

  struct Identity {
    std::uint16_t vendor_id = 0;
    std::uint16_t device_id = 0;
    std::uint32_t class_code = 0;  // 24 bits: class, subclass, prog-if
    std::uint8_t revision = 0;
    std::uint16_t subsystem_vendor_id = 0;
    std::uint16_t subsystem_id = 0;
  };
  /// A type 0 header: command, cache line size, latency timer and interrupt line are writable, error bits of
  /// the status register are cleared by writing one.
  explicit ConfigSpace(const Identity& identity);

  /// The guest's access: offset aligned to `width` (1, 2, 4) and below kSize.
  [[nodiscard]] std::uint32_t read(unsigned offset, unsigned width) const;
  void write(unsigned offset, unsigned width, std::uint32_t value);

  /// The device's own, below kKept: sets bytes whatever the masks say.
  void set(unsigned offset, unsigned width, std::uint32_t value);
  /// Replaces the masks of `width` bytes.
  void set_writable(unsigned offset, unsigned width, std::uint32_t mask);
  void set_write_one_to_clear(unsigned offset, unsigned width, std::uint32_t mask);

  [[nodiscard]] std::uint16_t command() const { return static_cast<std::uint16_t>(read(kPciCommand, 2)); }

  /// The bytes for a saved state, without the zeros at the end.
  [[nodiscard]] std::string save() const;
  /// Whether `bytes` could have come from save() of such a space: not too long, and the same in every bit
  /// that the guest cannot change. `unit` and `function` are for the message.
  [[nodiscard]] Status check(std::string_view bytes, std::string_view unit, std::string_view function) const;
  /// Takes over what check() passed.
  void restore(std::string_view bytes);

 private:
  std::array<std::uint8_t, kKept> bytes_{};
  std::array<std::uint8_t, kKept> writable_{};
  std::array<std::uint8_t, kKept> write_one_to_clear_{};
};

}  // namespace vmmd::devices
