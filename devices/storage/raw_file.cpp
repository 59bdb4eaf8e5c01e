#include "devices/storage/raw_file.h"

#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

#include "base/file.h"
#include "devices/storage/image_lock.h"

namespace vmmd::devices {

namespace {

constexpr unsigned kRingEntries = 256;
constexpr std::size_t kMaxPlainTransfer = std::size_t{1} << 30;  // bytes; a multiple of every sector
constexpr std::size_t kPiece = std::size_t{4} << 20;             // bytes, rounded up to a buffer

int fallocate_mode(const DiskRequest& request) {
  const bool punch = request.op == DiskOp::Discard || request.unmap;
  return FALLOC_FL_KEEP_SIZE | (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
}

/// The buffers that are left, those of one piece: what is copied in one go holds up the loop. At most IOV_MAX
/// of them; the rest comes as after a short transfer.
std::pair<iovec*, unsigned> rest(DiskRequest& request) {
  const std::size_t left = request.buffers.size() - request.first_buffer;
  const std::size_t most = std::min<std::size_t>(left, IOV_MAX);
  iovec* const buffers = request.buffers.data() + request.first_buffer;
  std::size_t count = 0;
  for (std::size_t bytes = 0; count < most && bytes < kPiece; ++count) bytes += buffers[count].iov_len;
  return {buffers, static_cast<unsigned>(count)};
}

void advance(DiskRequest& request, std::size_t bytes) {
  request.progress += bytes;
  while (bytes > 0 && request.first_buffer < request.buffers.size()) {
    iovec& buffer = request.buffers[request.first_buffer];
    const std::size_t step = std::min(bytes, buffer.iov_len);
    buffer.iov_base = static_cast<char*>(buffer.iov_base) + step;
    buffer.iov_len -= step;
    bytes -= step;
    if (buffer.iov_len == 0) ++request.first_buffer;
  }
}

}  // namespace

struct RawFile::Ring {
  Ring() = default;
  ~Ring() {
    if (ready) ::io_uring_queue_exit(&ring);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  io_uring ring = {};
  bool ready = false;
};

RawFile::RawFile(std::string path, UniqueFd fd, const Options& options)
    : path_(std::move(path)), fd_(std::move(fd)), options_(options) {}

RawFile::~RawFile() = default;

Result<std::unique_ptr<RawFile>> RawFile::open(const std::string& path, const Options& options) {
  const int mode = (options.readonly ? O_RDONLY : O_RDWR) | (options.direct ? O_DIRECT : 0);
  VMMD_ASSIGN(UniqueFd fd, open_file(path, mode | O_NONBLOCK));
  VMMD_TRY(file_size(fd.get(), path));  // refuses what is neither file nor block device
  VMMD_TRY(lock_image(fd.get(), path, options.readonly));
  return adopt(std::move(fd), path, options);
}

Result<std::unique_ptr<RawFile>> RawFile::adopt(UniqueFd fd, const std::string& name,
                                                const Options& options) {
  // Opened so that a FIFO holds nobody up. Kernels before 6.4 take it for "do not wait" with every request of
  // a block device, which those that cannot promise that (dm-crypt) answer with EAGAIN each time.
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ((flags & O_NONBLOCK) != 0 && ::fcntl(fd.get(), F_SETFL, flags & ~O_NONBLOCK) != 0))
    return fail_errno(ErrorCode::Internal, errno, "cannot set the flags of {}", name);
  std::unique_ptr<RawFile> disk(new RawFile(name, std::move(fd), options));
  if (options.direct) {
    VMMD_ASSIGN(disk->bounce_, Bounce::create(disk->fd_.get(), name));
  }
  if (options.use_io_uring) VMMD_TRY(disk->set_up_ring());
  return disk;
}

Status RawFile::set_up_ring() {
  auto ring = std::make_unique<Ring>();
  if (const int error = -::io_uring_queue_init(kRingEntries, &ring->ring, 0); error != 0) {
    if (error == EPERM || error == ENOSYS || error == EACCES) return {};
    return fail_errno(ErrorCode::Internal, error, "cannot set up io_uring for {}", path_);
  }
  ring->ready = true;
  ring_ = std::move(ring);
  return {};
}

Result<std::uint64_t> RawFile::size() {
  return file_size(fd_.get(), path_);
}

Status RawFile::grow(std::uint64_t bytes) {
  if (options_.readonly) return fail(ErrorCode::BadRequest, "{} cannot grow: it is read only", path_);
  struct stat info = {};
  if (::fstat(fd_.get(), &info) != 0)
    return fail_errno(ErrorCode::Internal, errno, "cannot look at {}", path_);
  if (!S_ISREG(info.st_mode)) {
    return fail(ErrorCode::BadRequest,
                "{} is a block device: make it larger where it comes from, then give its new size here",
                path_);
  }
  if (::ftruncate(fd_.get(), static_cast<off_t>(bytes)) != 0)
    return fail_errno(ErrorCode::BadRequest, errno, "{} cannot grow to {} bytes", path_, bytes);
  return {};
}

Status RawFile::start(EventLoop& loop, std::function<void()> batch_done) {
  loop_ = &loop;
  batch_done_ = std::move(batch_done);
  if (!ring_ || watch_) return {};
  // The ring itself is readable while completions wait in it: nothing to read, and none to be told of that
  // reap() has seen before.
  VMMD_ASSIGN(watch_, loop.watch(ring_->ring.ring_fd, FdEvent::Readable, [this] {
    reap();
    if (batch_done_) batch_done_();
  }));
  return {};
}

void RawFile::stop() {
  watch_.reset();  // batch_done_ stays: we may be inside it
}

void RawFile::submit(DiskRequest& request) {
  request.first_buffer = 0;
  request.progress = 0;
  waiting_.push_back(&request);
}

void RawFile::prepare(DiskRequest& request) {
  io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_->ring);
  const auto [buffers, count] = rest(request);
  const std::uint64_t at = request.offset + request.progress;
  // Most requests are one buffer, for which the kernel need not copy a vector. What is longer comes back
  // short.
  const auto length =
      count == 1 ? static_cast<unsigned>(std::min<std::size_t>(buffers->iov_len, kMaxPlainTransfer)) : 0;
  switch (request.op) {
    case DiskOp::Read:
      if (count == 1) {
        ::io_uring_prep_read(sqe, fd_.get(), buffers->iov_base, length, at);
      } else {
        ::io_uring_prep_readv(sqe, fd_.get(), buffers, count, at);
      }
      sqe->rw_flags = options_.nowait ? RWF_NOWAIT : 0;
      break;
    case DiskOp::Write:
      if (count == 1) {
        ::io_uring_prep_write(sqe, fd_.get(), buffers->iov_base, length, at);
      } else {
        ::io_uring_prep_writev(sqe, fd_.get(), buffers, count, at);
      }
      sqe->rw_flags = request.sync ? RWF_DSYNC : 0;
      break;
    case DiskOp::Flush:
      ::io_uring_prep_fsync(sqe, fd_.get(), IORING_FSYNC_DATASYNC);
      break;
    case DiskOp::Discard:
    case DiskOp::WriteZeroes:
      ::io_uring_prep_fallocate(sqe, fd_.get(), fallocate_mode(request), static_cast<off_t>(request.offset),
                                static_cast<off_t>(request.length));
      break;
  }
  ::io_uring_sqe_set_data(sqe, &request);
  queued_.push_back(&request);
}

// Also with nothing to do, as after most completions.
void RawFile::submit_ring() {
  if (queued_.empty()) return;
  const int taken = ::io_uring_submit(&ring_->ring);
  if (taken > 0) {
    queued_.erase(queued_.begin(), queued_.begin() + std::min<std::ptrdiff_t>(taken, std::ssize(queued_)));
    in_flight_ += static_cast<std::size_t>(taken);
  }
  // EAGAIN, EBUSY: the next completion tries again. If there will be none, nobody would.
  if (!queued_.empty() && in_flight_ == 0) give_up_ring();
}

// The host cannot take requests in this way now (it is out of memory, most likely): go on by system calls.
void RawFile::give_up_ring() {
  watch_.reset();
  ring_.reset();
  waiting_.insert(waiting_.begin(), queued_.begin(), queued_.end());
  queued_.clear();
}

// One system call for all, unless there are more than the ring holds: the rest follows as completions come.
void RawFile::kick() {
  if (ring_) {
    std::size_t taken = 0;
    while (taken < waiting_.size() && ::io_uring_sq_space_left(&ring_->ring) > 0) {
      DiskRequest& request = *waiting_[taken++];
      if (must_bounce(request)) {
        bounced_.push_back(&request);
      } else {
        prepare(request);
      }
    }
    waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(taken));
    submit_ring();
  }
  if (!ring_ || !bounced_.empty()) serve_soon();
}

bool RawFile::must_bounce(DiskRequest& request) const {
  if (!bounce_ || (request.op != DiskOp::Read && request.op != DiskOp::Write)) return false;
  const auto [buffers, count] = rest(request);
  return !bounce_->fits({buffers, count});
}

void RawFile::serve_soon() {
  if (serve_posted_ || (waiting_.empty() && bounced_.empty())) return;
  serve_posted_ = true;
  loop_->post([this] { serve_waiting(); });
}

// One round; what is submitted meanwhile comes in a later one, so that the loop's other work has its turn.
void RawFile::serve_waiting() {
  serve_posted_ = false;
  serving_.swap(bounced_);
  if (!ring_) {
    serving_.insert(serving_.end(), waiting_.begin(), waiting_.end());
    waiting_.clear();
  }
  for (DiskRequest* request : serving_) complete(*request, serve(*request));
  serving_.clear();
  kick();
  if (batch_done_) batch_done_();
}

int RawFile::serve(DiskRequest& request) {
  const auto [buffers, count] = rest(request);
  const auto at = static_cast<off_t>(request.offset + request.progress);
  const int flags = request.sync ? RWF_DSYNC : 0;
  const std::span<const iovec> all(buffers, count);
  const bool bounces = must_bounce(request);
  ssize_t result = 0;
  do {
    switch (request.op) {
      case DiskOp::Read:
        result = bounces ? bounce_->read(fd_.get(), all, static_cast<std::uint64_t>(at))
                         : ::preadv(fd_.get(), buffers, static_cast<int>(count), at);
        break;
      case DiskOp::Write:
        result = bounces ? bounce_->write(fd_.get(), all, static_cast<std::uint64_t>(at), flags)
                         : ::pwritev2(fd_.get(), buffers, static_cast<int>(count), at, flags);
        break;
      case DiskOp::Flush:
        result = ::fdatasync(fd_.get());
        break;
      case DiskOp::Discard:
      case DiskOp::WriteZeroes:
        result = ::fallocate(fd_.get(), fallocate_mode(request), static_cast<off_t>(request.offset),
                             static_cast<off_t>(request.length));
        break;
    }
  } while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : static_cast<int>(result);
}

void RawFile::reap() {
  if (!ring_) return;
  io_uring_cqe* cqe = nullptr;
  while (::io_uring_peek_cqe(&ring_->ring, &cqe) == 0) {
    auto* request = static_cast<DiskRequest*>(::io_uring_cqe_get_data(cqe));
    const int result = cqe->res;
    ::io_uring_cqe_seen(&ring_->ring, cqe);
    --in_flight_;
    // The kernel will not wait for this one: a system call does. Asking the ring again could go on for ever.
    if (result == -EAGAIN) {
      bounced_.push_back(request);
    } else {
      complete(*request, result);
    }
  }
  kick();
}

void RawFile::complete(DiskRequest& request, int result) {
  const bool transfer = request.op == DiskOp::Read || request.op == DiskOp::Write;
  if (transfer && result > 0) {
    advance(request, static_cast<std::size_t>(result));
    if (request.progress < request.length) {
      waiting_.push_back(&request);
      return;
    }
  } else if (transfer && result == -EINTR) {
    waiting_.push_back(&request);
    return;
  } else if (request.op == DiskOp::WriteZeroes && !request.unmap && result == -EOPNOTSUPP) {
    request.unmap = true;  // tmpfs and others only punch holes, which read as zeroes too
    waiting_.push_back(&request);
    return;
  } else if (transfer && result == 0) {
    result = -EIO;  // the file ends here: it has shrunk
  }
  request.error = result < 0 ? -result : 0;
  request.done(request);
}

}  // namespace vmmd::devices
