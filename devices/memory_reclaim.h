#pragma once

#include <cstdint>

#include "base/result.h"
#include "devices/guest_address.h"

namespace vmmd::devices {

/// Gives guest RAM that the guest does not use back to the host. Thread-safe.
class MemoryReclaim {
 public:
  virtual ~MemoryReclaim() = default;

  /// The smallest piece that the host can take back: a page, or a huge page. A power of two, bytes.
  [[nodiscard]] virtual std::uint64_t granularity() const = 0;

  /// The guest needs the content of [address, address + length) no more, though it may touch it again at any
  /// time: it then finds zeros or something that it once wrote there itself. Whole pieces within the range
  /// that are RAM leave the host's memory; what is outside RAM is ignored. Returns the bytes in those pieces.
  virtual Result<std::uint64_t> discard(GuestAddress address, std::uint64_t length) = 0;
};

}  // namespace vmmd::devices
