#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "daemon/memory/layout.h"
#include "devices/guest_address.h"

namespace vmmd::x86 {

/// E820 numbers, which hvm_start_info's memory map shares.
enum class MemoryType : std::uint32_t { Ram = 1, Reserved = 2 };

struct MemoryMapEntry {
  devices::GuestAddress start;
  std::uint64_t size = 0;  // bytes
  MemoryType type = MemoryType::Ram;
};

/// The memory map that the guest is told: ascending, without overlaps. `ram` is not empty and reaches above
/// 1 MiB.
[[nodiscard]] std::vector<MemoryMapEntry> boot_memory_map(const std::vector<memory::RamRange>& ram);

/// Bytes [start, end) of guest physical memory.
struct Span {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
};

/// The highest page-aligned address from 1 MiB up where `size` bytes lie in RAM below `limit` and outside
/// every span of `taken`; nothing where there is no such room. A `size` of 0 has no place.
[[nodiscard]] std::optional<devices::GuestAddress> place_high(const std::vector<memory::RamRange>& ram,
                                                              std::vector<Span> taken, std::uint64_t size,
                                                              std::uint64_t limit);

}  // namespace vmmd::x86
