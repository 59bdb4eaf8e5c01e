#include "daemon/snapshot/format/verify.h"

#include <algorithm>
#include <atomic>
#include <mutex>

#include "daemon/snapshot/format/chunks.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/manifest.h"

namespace vmmd::snapshot {
namespace {

/// Turns damaged chunks into ranges: neighbours are one, and none spans two ranges of RAM.
std::vector<DamagedRange> merge(std::vector<std::uint64_t> chunks, const OpenSnapshot& snapshot) {
  std::sort(chunks.begin(), chunks.end());
  std::vector<DamagedRange> ranges;
  const std::uint64_t size = snapshot.manifest.memory_size_bytes();
  for (const std::uint64_t chunk : chunks) {
    const std::uint64_t start = chunk * kChunkSize;
    const std::uint64_t end = std::min<std::uint64_t>(start + kChunkSize, size);
    for (const MemoryRange& ram : snapshot.manifest.memory_layout()) {
      const std::uint64_t from = std::max(start, ram.file_offset());
      const std::uint64_t to = std::min(end, ram.file_offset() + ram.length());
      if (from >= to) continue;
      const DamagedRange range{from, ram.guest_address() + (from - ram.file_offset()), to - from};
      if (!ranges.empty() && ranges.back().file_offset + ranges.back().length == range.file_offset &&
          ranges.back().guest_address + ranges.back().length == range.guest_address) {
        ranges.back().length += range.length;
      } else {
        ranges.push_back(range);
      }
    }
  }
  return ranges;
}

}  // namespace

Result<VerifyReport> verify_memory(const OpenSnapshot& snapshot, const VerifyProgress& progress,
                                   unsigned threads) {
  VMMD_ASSIGN(const MemoryDigests digests, load_memory_digests(snapshot));
  std::mutex mutex;
  std::vector<std::uint64_t> damaged;  // guarded by mutex
  const auto visit = [&](std::uint64_t index, const ChunkFinding& found) {
    const bool intact = found.kind == ChunkFinding::Kind::Hole   ? digests.is_zero(index)
                        : found.kind == ChunkFinding::Kind::Data ? found.digest == digests.at(index)
                                                                 : false;
    if (intact) return;
    const std::lock_guard lock(mutex);
    damaged.push_back(index);
  };
  const std::uint64_t size = snapshot.manifest.memory_size_bytes();
  VMMD_ASSIGN(const WalkResult walked, walk_chunks(snapshot.memory.get(), size, progress, threads, visit));
  return VerifyReport{.bytes_total = size,
                      .bytes_read = walked.bytes_read,
                      .cancelled = walked.cancelled,
                      .damaged = merge(std::move(damaged), snapshot)};
}

Result<std::optional<MemoryDigests>> digest_memory(const OpenSnapshot& snapshot,
                                                   const VerifyProgress& progress, unsigned threads) {
  const std::uint64_t size = snapshot.manifest.memory_size_bytes();
  MemoryDigests digests(size);
  std::atomic<bool> readable = true;
  const auto visit = [&](std::uint64_t index, const ChunkFinding& found) {
    if (found.kind == ChunkFinding::Kind::Data) digests.set(index, found.digest);
    if (found.kind == ChunkFinding::Kind::Unreadable) readable = false;
  };
  VMMD_ASSIGN(const WalkResult walked, walk_chunks(snapshot.memory.get(), size, progress, threads, visit));
  if (walked.cancelled) return std::optional<MemoryDigests>();
  if (!readable) {
    return fail(ErrorCode::Internal, "cannot read all of {} of {}", kMemoryName, snapshot.path.native());
  }
  return std::optional(std::move(digests));
}

std::vector<std::string> damaged_layers(const OpenSnapshot& snapshot,
                                        const std::function<bool()>& cancelled) {
  std::vector<std::string> damaged;
  for (const auto& [name, fd] : snapshot.layers) {
    const File* listed = find_file(snapshot.manifest, name);
    const auto digest = digest_of_file(fd.get(), listed->length(), name, cancelled);
    if (cancelled && cancelled()) return {};
    if (!digest || digest->to_bytes() != listed->digest()) damaged.push_back(name);
  }
  return damaged;
}

}  // namespace vmmd::snapshot
