#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "daemon/memory/guest_ram.h"
#include "daemon/snapshot/job.h"
#include "daemon/snapshot/pace.h"
#include "daemon/snapshot/touched.h"

// What saving and loading memory.bin have in common: chunks, their addresses, and pieces of them.
namespace vmmd::snapshot {

/// A chunk of memory.bin and which parts of it were touched.
struct Chunk {
  std::uint64_t index = 0;
  std::vector<Extent> extents;
};
[[nodiscard]] std::vector<Chunk> chunks_of(const std::vector<Extent>& extents);

/// How many threads are of use for so many chunks.
[[nodiscard]] unsigned threads_for(std::size_t chunks);

/// Host addresses of flat memory. A chunk never spans two ranges: the first ends at a multiple of the chunk
/// size wherever there is a second.
class FlatMemory {
 public:
  explicit FlatMemory(const memory::GuestRam& ram) : layout_(ram.layout()), regions_(ram.regions()) {}
  [[nodiscard]] std::byte* at(std::uint64_t offset) const {
    const std::size_t i = range_of(offset);
    return regions_[i].host + (offset - layout_[i].file_offset);
  }
  [[nodiscard]] std::uint64_t guest_address(std::uint64_t offset) const {
    const memory::RamRange& range = layout_[range_of(offset)];
    return range.start.value + (offset - range.file_offset);
  }

 private:
  [[nodiscard]] std::size_t range_of(std::uint64_t offset) const {
    std::size_t i = layout_.size() - 1;
    while (i > 0 && offset < layout_[i].file_offset) --i;
    return i;
  }
  std::vector<memory::RamRange> layout_;
  std::vector<devices::GuestRegion> regions_;
};

/// Calls move(offset, count) for piece after piece of `length` bytes; a cancel ends it between two.
template <class Move>
Status in_pieces(Pace& pace, const Job& job, std::uint64_t length, Move move) {
  for (std::uint64_t at = 0; at < length;) {
    VMMD_TRY(job.check());
    const std::uint64_t count = std::min(pace.piece(), length - at);
    const auto start = std::chrono::steady_clock::now();
    VMMD_TRY(move(at, count));
    pace.took(count, std::chrono::steady_clock::now() - start);
    at += count;
  }
  return {};
}

}  // namespace vmmd::snapshot
