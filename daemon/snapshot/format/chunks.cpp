#include "daemon/snapshot/format/chunks.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/unique_fd.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/posix.h"

namespace vmmd::snapshot {
namespace {

constexpr std::size_t kPiece = 256ul * 1024;  // bytes per read: stays in the second-level cache
// Bytes between two calls of progress: tens of milliseconds of a slow disk, so that cancelling feels prompt.
constexpr std::uint64_t kProgressStep = 4ull * 1024 * 1024;
constexpr unsigned kThreadLimit = 8;
constexpr std::uint64_t kBatchLimit = 16;  // chunks: 32 MiB of sequential reading

struct Walk {
  int fd;
  std::uint64_t size;
  const VerifyProgress& progress;
  const std::function<void(std::uint64_t, const ChunkFinding&)>& visit;
  std::uint64_t batch;                  // chunks that a thread takes at a time
  std::atomic<std::uint64_t> next = 0;  // chunk
  std::atomic<std::uint64_t> bytes_read = 0;
  std::atomic<bool> cancelled = false;
  std::mutex progress_mutex = {};  // guards the two below, and calls of progress
  std::uint64_t bytes_done = 0;
  std::uint64_t bytes_reported = 0;
};

/// One thread's view: its buffer, and where data begins again.
class Walker {
 public:
  explicit Walker(Walk& walk) : walk_(walk), fd_(walk.fd), buffer_(kPiece) {
    // A description of its own, so that the kernel sees each thread read a sequence, and reads ahead of it.
    const std::string same = fmt::format("/proc/self/fd/{}", walk.fd);
    own_ = UniqueFd(retry([&] { return ::open(same.c_str(), O_RDONLY | O_CLOEXEC); }));
    if (!own_) return;
    fd_ = own_.get();
    ::posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);
  }

  void run() {
    const std::uint64_t chunks = (walk_.size + kChunkSize - 1) / kChunkSize;
    for (;;) {
      const std::uint64_t first = walk_.next.fetch_add(walk_.batch);
      const std::uint64_t end = std::min(first + walk_.batch, chunks);
      if (first >= chunks) return;
      for (std::uint64_t index = first; index < end; ++index) {
        if (walk_.cancelled) return;
        const std::uint64_t start = index * kChunkSize;
        const std::uint64_t length = std::min<std::uint64_t>(kChunkSize, walk_.size - start);
        walk_.visit(index, examine(start, length));
        report(length);
      }
    }
  }

 private:
  ChunkFinding examine(std::uint64_t start, std::uint64_t length) {
    if (is_hole(start, length)) return {ChunkFinding::Kind::Hole, {}};
    hasher_.reset();
    for (std::uint64_t done = 0; done < length;) {
      const std::size_t step = std::min<std::uint64_t>(kPiece, length - done);
      const auto piece = std::span(buffer_).first(step);
      if (!read_exact_at(fd_, piece, start + done, "")) return {ChunkFinding::Kind::Unreadable, {}};
      hasher_.add(piece);
      done += step;
    }
    walk_.bytes_read += length;
    return {ChunkFinding::Kind::Data, hasher_.finish()};
  }

  bool is_hole(std::uint64_t start, std::uint64_t length) {
    if (start + length <= data_from_) return true;
    const off_t data = ::lseek(fd_, static_cast<off_t>(start), SEEK_DATA);
    if (data < 0) {
      // ENXIO: no data up to the end. Anything else: this filesystem does not tell.
      if (errno != ENXIO) return false;
      data_from_ = walk_.size;
      return true;
    }
    data_from_ = static_cast<std::uint64_t>(data);
    return start + length <= data_from_;
  }

  void report(std::uint64_t length) {
    const std::lock_guard lock(walk_.progress_mutex);
    walk_.bytes_done += length;
    const bool due =
        walk_.bytes_done - walk_.bytes_reported >= kProgressStep || walk_.bytes_done == walk_.size;
    if (!due || !walk_.progress || walk_.cancelled) return;
    walk_.bytes_reported = walk_.bytes_done;
    if (!walk_.progress(walk_.bytes_done, walk_.size)) walk_.cancelled = true;
  }

  Walk& walk_;
  UniqueFd own_;
  int fd_;
  std::vector<std::byte> buffer_;
  Hasher hasher_;
  std::uint64_t data_from_ = 0;  // everything below, from chunks seen, is a hole
};

}  // namespace

Result<WalkResult> walk_chunks(int fd, std::uint64_t size, const VerifyProgress& progress, unsigned threads,
                               const std::function<void(std::uint64_t index, const ChunkFinding&)>& visit) {
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  const std::uint64_t chunks = (size + kChunkSize - 1) / kChunkSize;
  threads = static_cast<unsigned>(std::min<std::uint64_t>({threads, kThreadLimit, chunks}));
  // Small enough that all threads end at about the same time.
  const std::uint64_t batch =
      std::clamp<std::uint64_t>(chunks / (std::uint64_t{threads} * 4), 1, kBatchLimit);
  Walk walk{.fd = fd, .size = size, .progress = progress, .visit = visit, .batch = batch};
  {
    std::vector<std::jthread> helpers;
    try {
      for (unsigned i = 1; i < threads; ++i) helpers.emplace_back([&walk] { Walker(walk).run(); });
    } catch (const std::system_error&) {
      threads = static_cast<unsigned>(helpers.size()) + 1;  // no more to be had: these do all the work
    }
    Walker(walk).run();
  }
  // A file that shrank meanwhile would have shown holes where there is nothing.
  VMMD_ASSIGN(const std::uint64_t size_now, file_size(fd, std::string(kMemoryName)));
  if (size_now != size) {
    return fail(ErrorCode::Conflict, "{} changed its length while it was read", kMemoryName);
  }
  return WalkResult{walk.bytes_read, walk.cancelled};
}

}  // namespace vmmd::snapshot
