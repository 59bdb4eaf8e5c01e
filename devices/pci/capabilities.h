#pragma once

#include <cstdint>
#include <span>

#include "devices/pci/config_space.h"

namespace vmmd::devices {

inline constexpr std::uint8_t kPciCapVendor = 0x09;
inline constexpr std::uint8_t kPciCapMsix = 0x11;

/// Lays a function's capabilities out, one after the other, from 0x40 on (PCI Local Bus 3.0, 6.7). All are
/// read-only until set_writable() says otherwise.
class CapabilityChain {
 public:
  explicit CapabilityChain(ConfigSpace& space) : space_(space) {}

  /// Appends a capability; `body` is what follows its id and next pointer. Its offset, a multiple of 4.
  /// The chain must fit below 0x100: what a function has is known when it is written, so this aborts.
  unsigned add(std::uint8_t id, std::span<const std::uint8_t> body);

 private:
  ConfigSpace& space_;
  unsigned link_ = kPciCapabilities;  // the pointer that the next one goes into
  unsigned next_ = 0x40;
};

}  // namespace vmmd::devices
