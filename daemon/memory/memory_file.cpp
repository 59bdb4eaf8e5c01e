#include "daemon/memory/memory_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/file.h"
#include "daemon/snapshot/format/id_attribute.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/problems.h"

namespace vmmd::memory {

namespace {

// Neither the mark nor a second name tells a snapshot's own memory.bin where there are no extended
// attributes; and a file with a mark that lies elsewhere is nobody's any more, once it has no other name.
bool in_snapshot_directory(const std::string& path, int fd, bool marked) {
  std::error_code error;
  // The file as it is called now: `path` may be a symbolic link.
  std::filesystem::path real = std::filesystem::read_symlink(fmt::format("/proc/self/fd/{}", fd), error);
  if (error) real = path;
  if (!marked && real.filename() != snapshot::kMemoryName) return false;
  return std::filesystem::exists(real.parent_path() / snapshot::kManifestName, error);
}

Status check_not_of_a_snapshot(const std::string& path, int fd) {
  struct stat info = {};
  if (::fstat(fd, &info) != 0) return fail_errno(ErrorCode::Internal, errno, "cannot stat {}", path);
  const auto snapshot = snapshot::read_id_attribute(fd);
  if (in_snapshot_directory(path, fd, snapshot.has_value())) {
    return fail(ErrorCode::Conflict,
                "memory file {} is the memory of a snapshot, which must not change: give another file", path);
  }
  if (info.st_nlink < 2) return {};
  if (snapshot) {
    return fail(ErrorCode::Conflict,
                "memory file {} is also the memory of snapshot {}, which must not change: remove the name {} "
                "(the snapshot has its own), or give another file; if a vmmd was killed before that snapshot "
                "was complete, `vmm-remote snapshot gc` on the directory that it was to be in frees the file",
                path, snapshot::shown(*snapshot), path);
  }
  return fail(ErrorCode::Conflict,
              "memory file {} has {} hard links: it may be the memory of a snapshot, which must not change; "
              "remove this name or give another file",
              path, info.st_nlink);
}

}  // namespace

// Any failure that is not the lack of locks must not pass for success: after `link` the exclusive lock would
// stay, and nobody could restore the snapshot.
Status lock_memory_file(int fd, int operation, const std::string& name) {
  int result = 0;
  do {
    result = ::flock(fd, operation | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return {};
  const int error = errno;
  if (error == EWOULDBLOCK)
    return fail(ErrorCode::Conflict, "memory file {} is in use by another virtual machine", name);
  if (error == ENOLCK || error == EOPNOTSUPP || error == ENOSYS || error == EINVAL) return {};
  return fail_errno(ErrorCode::Internal, error, "cannot lock memory file {}", name);
}

Result<UniqueFd> open_memory_file(const std::string& path, std::uint64_t size) {
  VMMD_ASSIGN(UniqueFd fd, open_file(path, O_RDWR | O_CREAT | O_NOCTTY | O_NONBLOCK, 0600));
  struct stat info = {};
  if (::fstat(fd.get(), &info) != 0) return fail_errno(ErrorCode::Internal, errno, "cannot stat {}", path);
  if (!S_ISREG(info.st_mode))
    return fail(ErrorCode::BadRequest, "memory file {} is not a regular file", path);
  VMMD_TRY(check_not_of_a_snapshot(path, fd.get()));
  VMMD_TRY(lock_memory_file(fd.get(), LOCK_EX, path));
  VMMD_TRY(check_not_of_a_snapshot(path, fd.get()));  // who held the lock may have made it one's meanwhile
  snapshot::remove_id_attribute(fd.get());
  const auto actual = static_cast<std::uint64_t>(info.st_size);
  if (actual == size) return fd;
  if (actual != 0) {
    return fail(
        ErrorCode::BadRequest,
        "memory file {} has {} bytes, the VM has {} bytes of RAM: give the matching size or another file",
        path, actual, size);
  }
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot size memory file {} to {} bytes", path, size);
  }
  return fd;
}

void remove_spare_name(const std::string& path, int fd) {
  struct stat named = {};
  struct stat open = {};
  if (::stat(path.c_str(), &named) != 0 || ::fstat(fd, &open) != 0) return;
  if (named.st_dev != open.st_dev || named.st_ino != open.st_ino || open.st_nlink < 2) return;
  // Not the symbolic link that leads to it: the next file is made where this one was.
  std::error_code error;
  const std::filesystem::path real = std::filesystem::canonical(path, error);
  if (!error) ::unlink(real.c_str());
}

}  // namespace vmmd::memory
