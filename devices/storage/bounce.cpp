#include "devices/storage/bounce.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

namespace vmmd::devices {

namespace {

constexpr std::size_t kSector = 512;  // bytes: what a guest's requests are multiples of
constexpr std::size_t kPage = 4096;

/// Calls `use(buffer, offset in all)` for the first `most` bytes; how many there were.
template <class Use>
std::size_t for_each(std::span<const iovec> buffers, std::size_t most, Use use) {
  std::size_t done = 0;
  for (const iovec& buffer : buffers) {
    const std::size_t length = std::min(buffer.iov_len, most - done);
    if (length == 0) continue;
    use(iovec{buffer.iov_base, length}, done);
    done += length;
  }
  return done;
}

}  // namespace

Result<Bounce> Bounce::create(int fd, const std::string& name) {
  struct statx info = {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) != 0)
    return fail_errno(ErrorCode::Internal, errno, "cannot stat {}", name);
  const std::size_t memory = info.stx_dio_mem_align;
  if ((info.stx_mask & STATX_DIOALIGN) == 0 || memory == 0 || info.stx_dio_offset_align == 0)
    return fail(ErrorCode::BadRequest, "{} takes no direct I/O on this filesystem: leave direct off", name);
  if (info.stx_dio_offset_align > kSector || memory > kPage) {
    return fail(ErrorCode::BadRequest,
                "{} takes direct I/O in blocks of {} bytes only, the guest's disk has sectors of {}: leave "
                "direct off",
                name, info.stx_dio_offset_align, kSector);
  }
  void* bytes = std::aligned_alloc(kPage, kSize);
  if (bytes == nullptr) return fail(ErrorCode::Internal, "no memory for direct I/O to {}", name);
  return Bounce(memory, static_cast<std::byte*>(bytes));
}

bool Bounce::fits(std::span<const iovec> buffers) const {
  return std::all_of(buffers.begin(), buffers.end(), [this](const iovec& buffer) {
    return (reinterpret_cast<std::uintptr_t>(buffer.iov_base) | buffer.iov_len) % alignment_ == 0;
  });
}

ssize_t Bounce::read(int fd, std::span<const iovec> buffers, std::uint64_t offset) {
  const std::size_t length = for_each(buffers, kSize, [](const iovec&, std::size_t) {});
  const ssize_t count = ::pread(fd, bytes_.get(), length, static_cast<off_t>(offset));
  if (count > 0) {
    for_each(buffers, static_cast<std::size_t>(count), [this](const iovec& piece, std::size_t at) {
      std::memcpy(piece.iov_base, bytes_.get() + at, piece.iov_len);
    });
  }
  return count;
}

ssize_t Bounce::write(int fd, std::span<const iovec> buffers, std::uint64_t offset, int flags) {
  const std::size_t length = for_each(buffers, kSize, [this](const iovec& piece, std::size_t at) {
    std::memcpy(bytes_.get() + at, piece.iov_base, piece.iov_len);
  });
  const iovec whole{bytes_.get(), length};
  return ::pwritev2(fd, &whole, 1, static_cast<off_t>(offset), flags);
}

}  // namespace vmmd::devices
