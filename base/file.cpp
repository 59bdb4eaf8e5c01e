#include "base/file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace vmmd {

Result<UniqueFd> open_file(const std::filesystem::path& path, int flags, mode_t mode) {
  int fd = -1;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return fail_errno(ErrorCode::BadRequest, errno, "cannot open {}", path.native());
  return UniqueFd(fd);
}

Result<std::uint64_t> file_size(int fd, const std::string& name) {
  struct stat info = {};
  if (::fstat(fd, &info) != 0) return fail_errno(ErrorCode::Internal, errno, "cannot stat {}", name);
  if (S_ISREG(info.st_mode)) return static_cast<std::uint64_t>(info.st_size);
  if (S_ISBLK(info.st_mode)) {
    std::uint64_t size = 0;
    if (::ioctl(fd, BLKGETSIZE64, &size) != 0) {
      return fail_errno(ErrorCode::Internal, errno, "cannot read the size of block device {}", name);
    }
    return size;
  }
  return fail(ErrorCode::BadRequest, "{} is neither a regular file nor a block device", name);
}

Status read_exact_at(int fd, std::span<std::byte> out, std::uint64_t offset, const std::string& name) {
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(fd, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      return fail_errno(ErrorCode::Internal, errno, "cannot read {} at offset {}", name, offset + done);
    if (n == 0) {
      return fail(ErrorCode::BadRequest, "{} ends at offset {}, {} bytes short", name, offset + done,
                  out.size() - done);
    }
    done += static_cast<std::size_t>(n);
  }
  return {};
}

Status write_all_at(int fd, std::span<const std::byte> data, std::uint64_t offset, const std::string& name) {
  std::size_t done = 0;
  while (done < data.size()) {
    const ssize_t n = ::pwrite(fd, data.data() + done, data.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      return fail_errno(ErrorCode::Internal, errno, "cannot write {} at offset {}", name, offset + done);
    done += static_cast<std::size_t>(n);
  }
  return {};
}

Result<std::string> read_small_file(int fd, std::uint64_t limit, const std::string& name) {
  VMMD_ASSIGN(const std::uint64_t size, file_size(fd, name));
  if (size > limit)
    return fail(ErrorCode::TooLarge, "{} has {} bytes; at most {} are allowed", name, size, limit);
  std::string content(size, '\0');
  VMMD_TRY(read_exact_at(fd, std::as_writable_bytes(std::span(content)), 0, name));
  return content;
}

}  // namespace vmmd
