#include "daemon/snapshot/memory_copy.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <mutex>
#include <span>
#include <system_error>
#include <thread>
#include <vector>

#include "base/file.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/pace.h"
#include "daemon/snapshot/touched.h"

namespace vmmd::snapshot {

namespace {

using memory::kPageSize;

// More threads than this find the filesystem's lock busy.
constexpr unsigned kMaxThreads = 4;

bool is_zero_page(const std::byte* page) {
  // memcmp of a page with itself shifted by one word: vectorized in libc, and it stops at the first
  // difference.
  std::uint64_t first = 0;
  std::memcpy(&first, page, sizeof first);
  return first == 0 && std::memcmp(page, page + sizeof first, kPageSize - sizeof first) == 0;
}

// A chunk of memory.bin and which parts of it were touched.
struct Chunk {
  std::uint64_t index = 0;
  std::vector<Extent> extents;
};

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

// Host addresses of flat memory. A chunk never spans two ranges: the first ends at a multiple of the chunk
// size wherever there is a second.
class FlatMemory {
 public:
  explicit FlatMemory(const memory::GuestRam& ram) : layout_(ram.layout()), regions_(ram.regions()) {}
  [[nodiscard]] std::byte* at(std::uint64_t offset) const {
    std::size_t i = layout_.size() - 1;
    while (i > 0 && offset < layout_[i].file_offset) --i;
    return regions_[i].host + (offset - layout_[i].file_offset);
  }
  [[nodiscard]] std::uint64_t guest_address(std::uint64_t offset) const {
    std::size_t i = layout_.size() - 1;
    while (i > 0 && offset < layout_[i].file_offset) --i;
    return layout_[i].start.value + (offset - layout_[i].file_offset);
  }

 private:
  const std::vector<memory::RamRange>& layout_;
  std::vector<devices::GuestRegion> regions_;
};

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
    // One CPU stays free for the API, the guest and the kernel's write-back. With all of them at work,
    // answers wait for a scheduler's tick, and the copy itself took longer.
    const unsigned cpus = std::thread::hardware_concurrency();
    const std::size_t wanted =
        std::min<std::size_t>(std::clamp(cpus, 2U, kMaxThreads + 1) - 1, chunks.size());
    std::vector<std::jthread> threads;
    try {
      for (std::size_t i = 1; i < wanted; ++i) threads.emplace_back(worker);
      // NOLINTNEXTLINE(bugprone-empty-catch): no more threads; those that run do the work
    } catch (const std::system_error&) {
    }
    worker();
  }
  return result;
}

// Calls move(offset, count) for piece after piece of `length` bytes; a cancel ends it between two.
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

class Writer {
 public:
  Writer(const memory::GuestRam& ram, int fd, MemoryDigests& digests, Job& job)
      : memory_(ram), fd_(fd), digests_(digests), job_(job) {}

  Status write(const Chunk& chunk) {
    bool empty = true;
    for (const Extent& extent : chunk.extents) {
      VMMD_ASSIGN(const std::uint64_t bytes, write_extent(extent));
      empty = empty && bytes == 0;
      written_.fetch_add(bytes, std::memory_order_relaxed);
      job_.add_done(extent.length);
    }
    if (empty) return {};
    set_digest(chunk);
    // Start writing back now; errors show at fsync.
    ::sync_file_range(fd_, static_cast<off_t>(chunk.index * kChunkSize), kChunkSize, SYNC_FILE_RANGE_WRITE);
    return {};
  }
  [[nodiscard]] std::uint64_t written() const { return written_.load(); }

 private:
  // Runs of pages that are not zero.
  Result<std::uint64_t> write_extent(const Extent& extent) {
    const std::byte* host = memory_.at(extent.offset);
    std::uint64_t written = 0;
    std::uint64_t at = 0;
    while (at < extent.length) {
      if (is_zero_page(host + at)) {
        at += kPageSize;
        continue;
      }
      std::uint64_t end = at + kPageSize;
      while (end < extent.length && !is_zero_page(host + end)) end += kPageSize;
      VMMD_TRY(in_pieces(pace_, job_, end - at, [&](std::uint64_t from, std::uint64_t count) {
        return write_all_at(fd_, {host + at + from, count}, extent.offset + at + from, "memory.bin");
      }));
      written += end - at;
      at = end;
    }
    return written;
  }

  void set_digest(const Chunk& chunk) {
    const std::uint64_t start = chunk.index * kChunkSize;
    const std::uint64_t length = digests_.chunk_length(chunk.index);
    if (chunk.extents.size() == 1 && chunk.extents.front().length == length) {
      digests_.add(chunk.index, {memory_.at(start), length});
      return;
    }
    Hasher hasher;  // what was not touched is zero: no need to look, looking would fault it in
    std::uint64_t at = start;
    for (const Extent& extent : chunk.extents) {
      hasher.add_zeros(extent.offset - at);
      hasher.add({memory_.at(extent.offset), extent.length});
      at = extent.offset + extent.length;
    }
    hasher.add_zeros(start + length - at);
    digests_.set(chunk.index, hasher.finish());
  }

  FlatMemory memory_;
  int fd_;
  MemoryDigests& digests_;
  Job& job_;
  Pace pace_;
  std::atomic<std::uint64_t> written_ = 0;
};

// Waits piece by piece for what Writer has started, so that a cancel is noticed soon: the fsync that follows
// then has only metadata to write. An error that this wait is told, fsync is not told again.
Status wait_for_write_back(int fd, const std::vector<Chunk>& chunks, Job& job) {
  job.enter_phase("write-back");
  Pace pace;
  for (const Chunk& chunk : chunks) {
    const std::uint64_t start = chunk.index * kChunkSize;
    VMMD_TRY(in_pieces(pace, job, kChunkSize, [&](std::uint64_t from, std::uint64_t count) -> Status {
      const int waited =
          ::sync_file_range(fd, static_cast<off_t>(start + from), static_cast<off_t>(count),
                            SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
      if (waited != 0 && (errno == EIO || errno == ENOSPC || errno == EDQUOT))
        return fail_errno(ErrorCode::Internal, errno, "cannot write memory.bin");
      return {};
    }));
  }
  return {};
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

Result<std::uint64_t> copy_memory_out(const memory::GuestRam& ram, int fd, MemoryDigests& digests, Job& job) {
  VMMD_ASSIGN(const std::vector<Extent> extents, touched_extents(ram));
  job.set_total(total_length(extents));
  if (::ftruncate(fd, static_cast<off_t>(ram.size())) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot size memory.bin to {} bytes", ram.size());
  }
  Writer writer(ram, fd, digests, job);
  const std::vector<Chunk> chunks = chunks_of(extents);
  VMMD_TRY(for_each_chunk(chunks, job, [&](const Chunk& chunk) { return writer.write(chunk); }));
  VMMD_TRY(wait_for_write_back(fd, chunks, job));
  return writer.written();
}

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
