#include "daemon/snapshot/format/inside.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "base/file.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/leftovers.h"
#include "daemon/snapshot/format/lock_holders.h"
#include "daemon/snapshot/format/manifest.h"
#include "daemon/snapshot/format/posix.h"

namespace vmmd::snapshot {
namespace {

std::string_view kind_of(mode_t mode) {
  if (S_ISLNK(mode)) return "a symbolic link";
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

tl::unexpected<Error> fail_changing(const std::string& path, const std::vector<LockHolder>& holders) {
  return fail(ErrorCode::Conflict, "the snapshot {} is being changed by somebody else{}", path,
              pids_text(holders));
}

}  // namespace

Result<UniqueFd> open_inside(int directory, std::string_view name, int flags) {
  const std::string file(name);
  struct stat info = {};
  // Opening a device can already do something. This look only spares it; the fstat below decides.
  if (::fstatat(directory, file.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return fail(ErrorCode::NotFound, "{} is missing", name);
    return fail_errno(ErrorCode::BadRequest, errno, "cannot look at {}", name);
  }
  if (!S_ISREG(info.st_mode)) {
    return fail(ErrorCode::BadRequest, "{} is {}, not a regular file", name, kind_of(info.st_mode));
  }
  UniqueFd fd(retry([&] {
    return ::openat(directory, file.c_str(), flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  }));
  if (!fd) return fail_errno(ErrorCode::BadRequest, errno, "cannot open {}", name);
  if (::fstat(fd.get(), &info) != 0) return fail_errno(ErrorCode::Internal, errno, "cannot stat {}", name);
  if (!S_ISREG(info.st_mode)) {
    return fail(ErrorCode::BadRequest, "{} is {}, not a regular file", name, kind_of(info.st_mode));
  }
  return fd;
}

Result<SnapshotManifest> read_manifest(int directory) {
  VMMD_ASSIGN(const UniqueFd fd, open_inside(directory, kManifestName, O_RDONLY));
  VMMD_ASSIGN(const std::string content,
              read_small_file(fd.get(), kManifestLimit, std::string(kManifestName)));
  return decode_manifest(content);
}

Result<ChangeLock> ChangeLock::take(int directory, const std::string& path) {
  VMMD_ASSIGN(const bool locked, lock_directory(directory, true));
  if (locked) return ChangeLock(directory);
  return fail_changing(path, flock_holders(directory));
}

Status ChangeLock::probe(int directory, const std::string& path) {
  const std::vector<LockHolder> holders = flock_holders(directory);
  return holders.empty() ? Status{} : fail_changing(path, holders);
}

ChangeLock::~ChangeLock() {
  if (directory_ >= 0) ::flock(directory_, LOCK_UN);
}

}  // namespace vmmd::snapshot
