#include "daemon/x86/boot_memory_map.h"

#include <algorithm>
#include <utility>

namespace vmmd::x86 {

using devices::GuestAddress;

std::vector<MemoryMapEntry> boot_memory_map(const std::vector<memory::RamRange>& ram) {
  const std::uint64_t low_end = ram.front().start.value + ram.front().size;
  std::vector<MemoryMapEntry> map{
      {GuestAddress(0), memory::kEbdaStart, MemoryType::Ram},
      {GuestAddress(memory::kEbdaStart), memory::kHighMemoryStart - memory::kEbdaStart, MemoryType::Reserved},
      {GuestAddress(memory::kHighMemoryStart), low_end - memory::kHighMemoryStart, MemoryType::Ram},
      // Linux trusts MCFG only where the window is reserved here or in the DSDT.
      {GuestAddress(memory::kEcamStart), memory::kEcamSize, MemoryType::Reserved},
      // KVM's own pages of the guest's address space: no BAR may ever land on them.
      {GuestAddress(memory::kIdentityMapAddress), 4 * memory::kPageSize, MemoryType::Reserved},
  };
  for (std::size_t i = 1; i < ram.size(); ++i) map.push_back({ram[i].start, ram[i].size, MemoryType::Ram});
  return map;
}

std::optional<GuestAddress> place_high(const std::vector<memory::RamRange>& ram, std::vector<Span> taken,
                                       std::uint64_t size, std::uint64_t limit) {
  if (size == 0) return std::nullopt;
  std::sort(taken.begin(), taken.end(), [](const Span& a, const Span& b) { return a.end > b.end; });
  for (auto range = ram.rbegin(); range != ram.rend(); ++range) {
    const std::uint64_t bottom = std::max(range->start.value, memory::kHighMemoryStart);
    std::uint64_t top = std::min(range->start.value + range->size, limit);
    // Downwards: whatever collides moves the candidate below what it collided with.
    auto next = taken.begin();
    while (top >= bottom && top - bottom >= size) {
      const std::uint64_t start = (top - size) & ~(memory::kPageSize - 1);
      if (start < bottom) break;
      next = std::find_if(next, taken.end(),
                          [&](const Span& span) { return span.start < start + size && span.end > start; });
      if (next == taken.end()) return GuestAddress(start);
      top = next->start;
    }
  }
  return std::nullopt;
}

}  // namespace vmmd::x86
