#include "daemon/memory/layout.h"

#include <algorithm>

namespace vmmd::memory {

using devices::GuestAddress;

namespace {
// KVM_MEM_MAX_NR_PAGES: pages of one memory slot.
constexpr std::uint64_t kLargestSlot = ((std::uint64_t{1} << 31) - 1) * kPageSize;

std::uint64_t physical_limit(unsigned max_phys_bits) {
  return std::uint64_t{1} << std::min(max_phys_bits, 52U);
}

std::uint64_t align_up(std::uint64_t address, std::uint64_t alignment) {
  return (address + alignment - 1) & ~(alignment - 1);
}

/// The first multiple of 1 GiB from `end` on and above RAM and 4 GiB.
std::uint64_t above(const std::vector<RamRange>& ram, std::uint64_t end) {
  const RamRange& last = ram.back();
  return align_up(std::max({kHighRamStart, last.start.value + last.size, end}), std::uint64_t{1} << 30);
}

}  // namespace

Result<std::vector<RamRange>> ram_layout(std::uint64_t size, unsigned max_phys_bits) {
  if (size == 0 || size % kPageSize != 0) {
    return fail(ErrorCode::BadRequest, "memory size {} is not a positive multiple of {} bytes", size,
                kPageSize);
  }
  const std::uint64_t low = std::min(size, kLowRamLimit);
  const std::uint64_t high = size - low;
  const std::uint64_t limit = physical_limit(max_phys_bits);
  if (high != 0 && (limit <= kHighRamStart || high > limit - kHighRamStart)) {
    return fail(ErrorCode::BadRequest,
                "memory size {} does not fit below 2^{}, the CPU's physical address limit", size,
                max_phys_bits);
  }
  if (std::max(low, high) > kLargestSlot) {
    return fail(ErrorCode::BadRequest, "memory size {} is more than KVM takes: at most {} bytes above 4 GiB",
                size, kLargestSlot);
  }
  std::vector<RamRange> ranges{{GuestAddress(0), low, 0}};
  if (high != 0) ranges.push_back({GuestAddress(kHighRamStart), high, low});
  return ranges;
}

Result<std::vector<std::uint64_t>> place_above_ram(const std::vector<RamRange>& ram,
                                                   const std::vector<std::uint64_t>& sizes,
                                                   unsigned max_phys_bits) {
  constexpr std::uint64_t kAlign = std::uint64_t{2} << 20;
  const std::uint64_t limit = physical_limit(max_phys_bits);
  std::uint64_t next = above(ram, 0);
  std::vector<std::uint64_t> starts;
  for (const std::uint64_t size : sizes) {
    if (next > limit || size > limit - next) {
      return fail(ErrorCode::BadRequest,
                  "{} bytes of persistent memory do not fit above RAM and below 2^{}, the CPU's physical "
                  "address limit",
                  size, max_phys_bits);
    }
    starts.push_back(next);
    next = align_up(next + size, kAlign);
  }
  return starts;
}

PciWindows pci_windows(const std::vector<RamRange>& ram, unsigned max_phys_bits, std::uint64_t memory_end) {
  const std::uint64_t start = above(ram, memory_end);
  const std::uint64_t end = physical_limit(max_phys_bits);
  return {{kMmio32Start, kMmio32Size}, {start, start < end ? end - start : 0}};
}

}  // namespace vmmd::memory
