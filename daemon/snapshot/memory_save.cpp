#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <stop_token>
#include <utility>
#include <vector>

#include "base/file.h"
#include "daemon/snapshot/chunked.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/posix.h"
#include "daemon/snapshot/memory_copy.h"

namespace vmmd::snapshot {

namespace {

using memory::kPageSize;

bool is_zero_page(const std::byte* page) {
  // memcmp of a page with itself shifted by one word: vectorized in libc, and it stops at the first
  // difference.
  std::uint64_t first = 0;
  std::memcpy(&first, page, sizeof first);
  return first == 0 && std::memcmp(page, page + sizeof first, kPageSize - sizeof first) == 0;
}

/// What the threads share. They may outlive the call that they work for: guest RAM, the digests and the job
/// are not theirs, and used by who is in (see Crew) only.
class Saver {
 public:
  Saver(const memory::GuestRam& ram, int fd, MemoryDigests& digests, Job& job, std::vector<Chunk> chunks)
      : memory_(ram),
        fd_(fd),
        digests_(digests),
        job_(job),
        stop_(job.stop_token()),
        chunks_(std::move(chunks)) {}

  [[nodiscard]] std::size_t chunk_count() const { return chunks_.size(); }

  /// Writes chunks until there is none left or one has failed.
  void write_chunks(Crew::Member& self) {
    while (!failed_.load(std::memory_order_relaxed)) {
      const std::size_t i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i >= chunks_.size()) return;
      Status status = job_.check();
      if (status) status = write(chunks_[i], self);
      if (!status) set_failed(std::move(status));
    }
  }

  /// Waits piece by piece for what write_chunks() has started, so that who waits learns of errors and cancels
  /// soon: the fsync that follows then has only metadata to write. An error that this wait is told, fsync is
  /// not told again.
  void write_back(Crew::Member& self) {
    static_cast<void>(self.outside([this] {
      for (const Chunk& chunk : chunks_) {
        const std::uint64_t start = chunk.index * kChunkSize;
        for (std::uint64_t at = 0; at < kChunkSize; at += kPiece) {
          if (stop_.stop_requested()) return;
          constexpr unsigned kWrite =
              SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
          const int waited = ::sync_file_range(fd_, static_cast<off_t>(start + at), kPiece, kWrite);
          if (waited == 0 || (errno != EIO && errno != ENOSPC && errno != EDQUOT)) continue;
          return set_failed(fail_writing(errno, "cannot write ", "memory.bin"));
        }
      }
    }));
  }

  [[nodiscard]] std::uint64_t written() const { return written_.load(); }
  /// The first error, once. Of all threads that have returned.
  [[nodiscard]] Status take_status() {
    const std::lock_guard lock(mutex_);
    return std::move(status_);
  }

 private:
  static constexpr std::uint64_t kPiece = 256 << 10;

  void set_failed(Status status) {
    if (failed_.exchange(true)) return;
    const std::lock_guard lock(mutex_);
    status_ = std::move(status);
  }

  static tl::unexpected<Error> left_behind() {
    return fail(ErrorCode::Conflict, "nobody waits for this write any more");
  }

  Status write(const Chunk& chunk, Crew::Member& self) {
    bool empty = true;
    for (const Extent& extent : chunk.extents) {
      VMMD_ASSIGN(const std::uint64_t bytes, write_extent(extent, self));
      empty = empty && bytes == 0;
      written_.fetch_add(bytes, std::memory_order_relaxed);
      job_.add_done(extent.length);
    }
    if (empty) return {};
    set_digest(chunk);
    // Start writing back now; errors show in write_back(). Waits where the disk's queue is full.
    const bool in = self.outside([&] {
      ::sync_file_range(fd_, static_cast<off_t>(chunk.index * kChunkSize), kChunkSize, SYNC_FILE_RANGE_WRITE);
    });
    if (!in) return left_behind();
    return {};
  }

  // Runs of pages that are not zero.
  Result<std::uint64_t> write_extent(const Extent& extent, Crew::Member& self) {
    const std::byte* host = memory_.at(extent.offset);
    std::uint64_t written = 0;
    std::uint64_t at = 0;
    while (at < extent.length) {
      VMMD_TRY(job_.check());  // looking at a page may fetch it from a disk
      if (is_zero_page(host + at)) {
        at += kPageSize;
        continue;
      }
      std::uint64_t end = at + kPageSize;
      while (end < extent.length && !job_.cancelled() && !is_zero_page(host + end)) end += kPageSize;
      VMMD_TRY(in_pieces(pace_, job_, end - at, [&](std::uint64_t from, std::uint64_t count) {
        return write_piece({host + at + from, count}, extent.offset + at + from, self);
      }));
      written += end - at;
      at = end;
    }
    return written;
  }

  // The kernel reads guest RAM here while nobody may be waiting: what comes of it goes nowhere.
  Status write_piece(std::span<const std::byte> bytes, std::uint64_t offset, Crew::Member& self) {
    Status status;
    if (!self.outside([&] { status = write_out(fd_, bytes, offset, "memory.bin"); })) return left_behind();
    return status;
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

  const FlatMemory memory_;
  const int fd_;
  MemoryDigests& digests_;
  Job& job_;
  const std::stop_token stop_;
  const std::vector<Chunk> chunks_;
  Pace pace_;
  std::atomic<std::size_t> next_ = 0;
  std::atomic<std::uint64_t> written_ = 0;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  Status status_;  // guarded by mutex_
};

}  // namespace

Result<std::uint64_t> copy_memory_out(const memory::GuestRam& ram, int fd, MemoryDigests& digests, Job& job,
                                      const Crew::Leave& leave) {
  VMMD_ASSIGN(const std::vector<Extent> extents, touched_extents(ram));
  job.set_total(total_length(extents));
  if (::ftruncate(fd, static_cast<off_t>(ram.size())) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot size memory.bin to {} bytes", ram.size());
  }
  auto saver = std::make_shared<Saver>(ram, fd, digests, job, chunks_of(extents));
  const auto run = [&](unsigned threads, void (Saver::*work)(Crew::Member&)) -> Status {
    Crew::run(
        threads, [saver, work](Crew::Member& self) { ((*saver).*work)(self); }, job.stop_token(), leave);
    VMMD_TRY(job.check());
    return saver->take_status();
  };
  if (saver->chunk_count() == 0) return 0;
  VMMD_TRY(run(threads_for(saver->chunk_count()), &Saver::write_chunks));
  job.enter_phase("write-back");
  VMMD_TRY(run(1, &Saver::write_back));
  return saver->written();
}

}  // namespace vmmd::snapshot
