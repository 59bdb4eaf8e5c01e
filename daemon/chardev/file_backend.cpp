#include "daemon/chardev/file_backend.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "base/file.h"

namespace vmmd::chardev {

Result<std::unique_ptr<FileBackend>> FileBackend::open(const std::string& path, bool append,
                                                       loop::DeviceLoop& loop) {
  if (path.empty()) return fail(ErrorCode::BadRequest, "mode File needs a path to write to");
  struct stat info = {};
  const bool fifo = ::stat(path.c_str(), &info) == 0 && S_ISFIFO(info.st_mode);
  const int flags = fifo ? O_RDWR : O_WRONLY | O_CREAT | (append ? O_APPEND : O_TRUNC);
  VMMD_ASSIGN(UniqueFd fd, open_file(path, flags | O_NONBLOCK | O_NOCTTY, 0600));
  if (::fstat(fd.get(), &info) != 0) return fail_errno(ErrorCode::Internal, errno, "cannot stat {}", path);
  if (S_ISBLK(info.st_mode)) {
    return fail(ErrorCode::BadRequest, "{} is a block device; output would overwrite it: choose a file",
                path);
  }
  return std::unique_ptr<FileBackend>(new FileBackend(path, std::move(fd), loop));
}

FileBackend::FileBackend(std::string path, UniqueFd fd, loop::DeviceLoop& loop)
    : StreamBackend(loop, NoPeer::Keep, Input::Never), path_(std::move(path)) {
  open_output(make_descriptor(std::move(fd)));
}

FileBackend::~FileBackend() {
  shut_down();
}

void FileBackend::on_output_error(int) {
  discard_output();
}

void FileBackend::on_input_end(int) {}

}  // namespace vmmd::chardev
