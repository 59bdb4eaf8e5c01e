#include "daemon/snapshot/chunked.h"

#include <thread>

#include "daemon/snapshot/format/layout.h"

namespace vmmd::snapshot {

std::vector<Chunk> chunks_of(const std::vector<Extent>& extents) {
  std::vector<Chunk> chunks;
  for (Extent extent : extents) {
    while (extent.length != 0) {
      const std::uint64_t index = extent.offset / kChunkSize;
      const std::uint64_t length = std::min(extent.length, (index + 1) * kChunkSize - extent.offset);
      if (chunks.empty() || chunks.back().index != index) chunks.push_back({index, {}});
      chunks.back().extents.push_back({extent.offset, length});
      extent.offset += length;
      extent.length -= length;
    }
  }
  return chunks;
}

unsigned threads_for(std::size_t chunks) {
  constexpr unsigned kMost = 4;  // more find the filesystem's lock busy
  // One CPU stays free for the API, the guest and the kernel's write-back. With all of them at work, answers
  // wait for a scheduler's tick, and the copy itself took longer.
  const unsigned wanted = std::clamp(std::thread::hardware_concurrency(), 2U, kMost + 1) - 1;
  return static_cast<unsigned>(std::min<std::size_t>(wanted, chunks));
}

}  // namespace vmmd::snapshot
