#include "daemon/snapshot/format/destination.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/posix.h"

namespace vmmd::snapshot {
namespace {

Status check_empty(int parent, const std::string& name, const std::string& path) {
  UniqueFd directory(
      retry([&] { return ::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); }));
  if (!directory) return fail_errno(ErrorCode::BadRequest, errno, "cannot look into {}", path);
  // One entry is enough to know; more than that is only for the message.
  constexpr std::size_t kLook = 10'000;
  const auto entries = directory_entries(directory.get(), kLook, path);
  if (!entries && entries.error().code != ErrorCode::TooLarge) return tl::make_unexpected(entries.error());
  if (entries && entries->empty()) return {};
  if (entries && std::find(entries->begin(), entries->end(), kManifestName) != entries->end()) {
    return fail(ErrorCode::Conflict, "{} is already a snapshot: choose another name, or delete it first",
                path);
  }
  return fail(ErrorCode::Conflict, "{} is not empty: a snapshot needs a new or an empty directory", path);
}

}  // namespace

Result<Destination> split_destination(const std::filesystem::path& destination) {
  std::filesystem::path path = destination;
  if (!path.has_filename()) path = path.parent_path();  // "dir/" means "dir"
  Destination found;
  found.name = path.filename().native();
  found.parent_path = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  if (found.name.empty() || found.name == "." || found.name == ".." || found.name == "/") {
    return fail(ErrorCode::BadRequest,
                "\"{}\" does not name a snapshot directory: its last part must be a name",
                destination.native());
  }
  const std::string& parent = found.parent_path.native();
  found.parent = UniqueFd(retry([&] { return ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (found.parent) return found;
  switch (errno) {
    case ENOENT:
      return fail(ErrorCode::BadRequest, "the parent directory {} does not exist: create it first", parent);
    case ENOTDIR:
      return fail(ErrorCode::BadRequest, "the parent {} is not a directory", parent);
    default:
      return fail_writing(errno, "cannot open the parent directory ", parent);
  }
}

Result<Destination> examine_destination(const std::filesystem::path& destination) {
  VMMD_ASSIGN(Destination found, split_destination(destination));
  struct stat info = {};
  if (::fstatat(found.parent.get(), found.name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return found;
    return fail_errno(ErrorCode::BadRequest, errno, "cannot look at {}", destination.native());
  }
  if (S_ISLNK(info.st_mode)) {
    return fail(ErrorCode::Conflict, "{} is a symbolic link: name the directory itself",
                destination.native());
  }
  if (!S_ISDIR(info.st_mode)) {
    return fail(ErrorCode::Conflict, "{} exists and is not a directory", destination.native());
  }
  struct stat parent = {};
  if (::fstat(found.parent.get(), &parent) == 0 && parent.st_dev != info.st_dev) {
    return fail_placing(EBUSY, destination);
  }
  VMMD_TRY(check_empty(found.parent.get(), found.name, destination.native()));
  found.replaced_mode = info.st_mode & 07777u;
  return found;
}

tl::unexpected<Error> fail_placing(int error, const std::filesystem::path& destination) {
  switch (error) {
    case EEXIST:
    case ENOTEMPTY:
    case ENOTDIR:
      return fail(ErrorCode::Conflict, "something else appeared at {} meanwhile: it was left alone",
                  destination.native());
    case EBUSY:
      return fail(ErrorCode::BadRequest, "{} is a mount point: name a directory inside it",
                  destination.native());
    default:
      return fail_writing(error, "cannot rename the complete snapshot to ", destination.native());
  }
}

}  // namespace vmmd::snapshot
