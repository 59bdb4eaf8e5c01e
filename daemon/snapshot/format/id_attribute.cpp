#include "daemon/snapshot/format/id_attribute.h"

#include <sys/stat.h>
#include <sys/xattr.h>

#include <cerrno>
#include <cstddef>

#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/posix.h"

namespace vmmd::snapshot {

std::optional<std::string> read_id_attribute(int fd) {
  std::string value(kNameLimit, '\0');
  const ssize_t size = retry([&] { return ::fgetxattr(fd, kIdAttribute, value.data(), value.size()); });
  if (size < 0) {
    // Longer than any id of ours: present, and wrong.
    if (errno == ERANGE) return "";
    return std::nullopt;
  }
  value.resize(static_cast<std::size_t>(size));
  return value;
}

Status write_id_attribute(int fd, const std::string& id, const std::string& name) {
  if (retry([&] { return ::fsetxattr(fd, kIdAttribute, id.data(), id.size(), 0); }) == 0) return {};
  const int error = errno;
  const bool not_kept = error == EOPNOTSUPP || error == EPERM || error == EACCES;
  if (!not_kept) return fail_writing(error, "cannot set an extended attribute of ", name);
  const auto present = read_id_attribute(fd);
  if (present && *present != id) {
    return fail_errno(ErrorCode::Conflict, error,
                      "{} is marked as the memory of another snapshot, and the mark cannot be changed", name);
  }
  return {};
}

void remove_id_attribute(int fd) noexcept {
  retry([&] { return ::fremovexattr(fd, kIdAttribute); });
}

std::optional<std::string> snapshot_sharing_file(int fd) {
  struct stat info = {};
  if (::fstat(fd, &info) != 0 || info.st_nlink < 2) return std::nullopt;
  return read_id_attribute(fd);
}

}  // namespace vmmd::snapshot
