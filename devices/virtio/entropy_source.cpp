#include "devices/virtio/entropy_source.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/file.h"

namespace vmmd::devices {

namespace {

// Up to 256 bytes come whole; more may be cut short by a signal, which is no failure.
std::size_t system_random(std::span<std::byte> out) {
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::getrandom(out.data() + done, out.size() - done, 0);
    if (n > 0) {
      done += static_cast<std::size_t>(n);
    } else if (errno != EINTR) {
      break;  // EFAULT: the guest's memory is gone (its file was truncated)
    }
  }
  return done;
}

}  // namespace

Result<EntropySource> EntropySource::open(const std::string& path) {
  EntropySource source;
  source.path_ = path;
  if (path == kSystem) return source;
  VMMD_ASSIGN(source.file_, open_file(path, O_RDONLY | O_NONBLOCK | O_NOCTTY));
  struct stat info = {};
  if (::fstat(source.file_.get(), &info) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot stat {}", path);
  }
  if (S_ISDIR(info.st_mode)) {
    return fail(ErrorCode::BadRequest, "rng.src {} is a directory: give a file or a character device", path);
  }
  return source;
}

std::size_t EntropySource::fill(std::span<std::byte> out) {
  while (file_ && !out.empty()) {
    const ssize_t n = ::read(file_.get(), out.data(), out.size());
    if (n > 0) return static_cast<std::size_t>(n);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return 0;
    failure_ = n < 0 ? errno : ENODATA;
    file_.reset();
  }
  return system_random(out);
}

}  // namespace vmmd::devices
