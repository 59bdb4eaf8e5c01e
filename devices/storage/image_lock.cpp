#include "devices/storage/image_lock.h"

#include <fcntl.h>

#include <cerrno>

namespace vmmd::devices {

namespace {

struct flock whole_file(bool readonly) {
  struct flock lock = {};
  lock.l_type = static_cast<short>(readonly ? F_RDLCK : F_WRLCK);
  lock.l_whence = SEEK_SET;  // from 0, of length 0: all of it
  return lock;
}

tl::unexpected<Error> fail_in_use(const std::string& path, bool readonly) {
  return fail(ErrorCode::Conflict,
              "the image {} is in use: another VM or program {} it; end that one, or give this VM a copy, "
              "or an overlay if the other only reads it",
              path, readonly ? "writes" : "reads or writes");
}

}  // namespace

Status lock_image(int fd, const std::string& path, bool readonly) {
  struct flock lock = whole_file(readonly);
  if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return {};
  const int error = errno;
  if (error == EAGAIN || error == EACCES) return fail_in_use(path, readonly);
  // A filesystem without locks: as good as Cloud Hypervisor without them, and nothing can be done.
  if (error == EOPNOTSUPP || error == ENOLCK || error == EINVAL || error == ENOSYS) return {};
  return fail_errno(ErrorCode::BadRequest, error, "cannot lock the image {}", path);
}

Status probe_image_lock(int fd, const std::string& path, bool readonly) {
  struct flock lock = whole_file(readonly);
  if (::fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) return {};
  return fail_in_use(path, readonly);
}

}  // namespace vmmd::devices
