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

PciWindows pci_windows(const std::vector<RamRange>& ram, unsigned max_phys_bits) {
  constexpr std::uint64_t kAlign = std::uint64_t{1} << 30;
  const RamRange& last = ram.back();
  const std::uint64_t ram_end = std::max(kHighRamStart, last.start.value + last.size);
  const std::uint64_t start = (ram_end + kAlign - 1) & ~(kAlign - 1);
  const std::uint64_t end = physical_limit(max_phys_bits);
  return {{kMmio32Start, kMmio32Size}, {start, start < end ? end - start : 0}};
}

}  // namespace vmmd::memory
