#include <fcntl.h>

#include <atomic>
#include <cerrno>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/file.h"
#include "daemon/snapshot/chunked.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/memory_copy.h"

namespace vmmd::snapshot {

namespace {

// Runs work(chunk) for all of them on several threads; the first error stops all.
Status for_each_chunk(const std::vector<Chunk>& chunks, const Job& job,
                      const std::function<Status(const Chunk&)>& work) {
  std::atomic<std::size_t> next = 0;
  std::atomic<bool> failed = false;
  std::mutex mutex;
  Status result;
  const auto worker = [&] {
    while (!failed.load(std::memory_order_relaxed)) {
      const std::size_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= chunks.size()) return;
      Status status = job.check();
      if (status) status = work(chunks[i]);
      if (!status && !failed.exchange(true)) {
        const std::lock_guard lock(mutex);
        result = std::move(status);
      }
    }
  };
  {
    const unsigned extra = threads_for(chunks.size());
    std::vector<std::jthread> threads;
    try {
      for (unsigned i = 1; i < extra; ++i) threads.emplace_back(worker);
      // NOLINTNEXTLINE(bugprone-empty-catch): no more threads; those that run do the work
    } catch (const std::system_error&) {
    }
    worker();
  }
  return result;
}

// A memory file that is used again still has what an earlier VM left in it, where the snapshot has holes.
Status empty_file(const memory::GuestRam& ram) {
  if (ram.backing() != memory::Backing::File) return {};
  VMMD_ASSIGN(const std::vector<Extent> old, data_extents(ram.fd(), ram.size()));
  for (const Extent& extent : old) {
    if (::fallocate(ram.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(extent.offset),
                    static_cast<off_t>(extent.length)) != 0) {
      return fail_errno(ErrorCode::Internal, errno, "cannot clear the memory file before the restore");
    }
  }
  return {};
}

}  // namespace

Status copy_memory_in(int fd, const memory::GuestRam& ram, const MemoryDigests* digests, Job& job) {
  VMMD_TRY(job.check());
  VMMD_TRY(empty_file(ram));
  VMMD_ASSIGN(const std::vector<Extent> extents, data_extents(fd, ram.size()));
  job.set_total(total_length(extents));
  const FlatMemory memory(ram);
  const std::vector<Chunk> chunks = chunks_of(extents);
  if (digests != nullptr) {
    // A chunk that is all hole is not read below, so its digest must say that it was all zeros.
    auto data = chunks.begin();
    for (std::uint64_t index = 0; index < digests->chunk_count(); ++index) {
      if (data != chunks.end() && data->index == index) {
        ++data;
      } else if (!digests->is_zero(index)) {
        return fail(ErrorCode::BadRequest,
                    "memory.bin is damaged: a hole at guest address {:#x} was data when saved",
                    memory.guest_address(index * kChunkSize));
      }
    }
  }
  Pace pace;
  return for_each_chunk(chunks, job, [&](const Chunk& chunk) -> Status {
    for (const Extent& extent : chunk.extents) {
      VMMD_TRY(in_pieces(pace, job, extent.length, [&](std::uint64_t from, std::uint64_t count) {
        const std::uint64_t at = extent.offset + from;
        return read_exact_at(fd, {memory.at(at), count}, at, "memory.bin");
      }));
      job.add_done(extent.length);
    }
    if (digests == nullptr) return {};
    const std::uint64_t start = chunk.index * kChunkSize;
    if (digests->matches(chunk.index, {memory.at(start), digests->chunk_length(chunk.index)})) return {};
    return fail(ErrorCode::BadRequest,
                "memory.bin is damaged: {} bytes at guest address {:#x} are not what was saved",
                digests->chunk_length(chunk.index), memory.guest_address(start));
  });
}

}  // namespace vmmd::snapshot
