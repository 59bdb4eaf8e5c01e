#include "daemon/snapshot/format/catalogue.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/file.h"
#include "daemon/snapshot/format/destination.h"
#include "daemon/snapshot/format/inside.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/leftovers.h"
#include "daemon/snapshot/format/open.h"
#include "daemon/snapshot/format/posix.h"

namespace vmmd::snapshot {
namespace {

constexpr std::array kNames = {kManifestName, kStateName, kMemoryName, kDigestsName, kConfigName};
constexpr std::size_t kParentLimit = 1'000'000;  // entries of a directory of snapshots
constexpr std::size_t kInsideLimit = 10'000;     // entries of a snapshot
constexpr std::uint64_t kBlock = 512;            // bytes: the unit of st_blocks, whatever the filesystem's

bool is_name(std::string_view entry) {
  return std::find(kNames.begin(), kNames.end(), entry) != kNames.end();
}

/// Left by an interrupted change (reseal.h).
bool is_leftover(std::string_view entry) {
  return is_name(hidden_for(entry));
}

bool is_ours(std::string_view entry) {
  return is_name(entry) || is_layer_name(entry) || is_leftover(entry);
}

struct Footprint {
  bool any = false;         // is one of the files there?
  bool unreadable = false;  // one of them is, and cannot be opened
  std::uint64_t bytes = 0;
};

/// Asks the kernel: what permits and forbids is more than modes and owners. Not of files that are no files:
/// opening those may do something.
bool can_be_read(int directory, const std::string& name) {
  const UniqueFd fd(retry([&] {
    return ::openat(directory, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  }));
  return fd || errno == ENOENT || errno == ELOOP;
}

Footprint footprint(int directory) {
  Footprint found;
  for (const std::string_view name : kNames) {
    struct stat info = {};
    if (::fstatat(directory, std::string(name).c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno != ENOENT) found.unreadable = true;
      continue;
    }
    found.any = true;
    if (!S_ISREG(info.st_mode)) continue;
    found.bytes += static_cast<std::uint64_t>(info.st_blocks) * kBlock;
    if (!can_be_read(directory, std::string(name))) found.unreadable = true;
  }
  // Their layers, which have no fixed names.
  const auto entries = directory_entries(directory, kInsideLimit, "");
  for (const std::string& entry : entries ? *entries : std::vector<std::string>()) {
    if (is_name(entry)) found.any = true;  // though it may be forbidden to look at it
    struct stat info = {};
    if (!is_layer_name(entry) || ::fstatat(directory, entry.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0)
      continue;
    if (!S_ISREG(info.st_mode)) continue;
    found.bytes += static_cast<std::uint64_t>(info.st_blocks) * kBlock;
    if (!can_be_read(directory, entry)) found.unreadable = true;
  }
  return found;
}

/// Refuses a directory that is no snapshot, or in which somebody keeps other things.
Status check_removable(int directory, const std::string& path) {
  VMMD_ASSIGN(const std::vector<std::string> entries, directory_entries(directory, kInsideLimit, path));
  bool any = false;
  for (const std::string& entry : entries) {
    if (!is_ours(entry)) {
      return fail(ErrorCode::Conflict, "{} holds \"{}\", which is not part of a snapshot: move it away first",
                  path, shown(entry));
    }
    any = true;
  }
  if (!any) return fail(ErrorCode::BadRequest, "{} is empty: it is no snapshot", path);
  return {};
}

}  // namespace

std::string_view to_string(SnapshotState state) {
  switch (state) {
    case SnapshotState::Complete:
      return "complete";
    case SnapshotState::Torn:
      return "torn";
    case SnapshotState::Consumed:
      return "consumed";
    case SnapshotState::Unreadable:
      return "unreadable";
    case SnapshotState::NotASnapshot:
      break;
  }
  return "not a snapshot";
}

namespace {

/// In one snapshot; nothing if it is none.
Status collect_in(const std::filesystem::path& path, std::vector<std::filesystem::path>& removed) {
  const UniqueFd directory(
      retry([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); }));
  if (!directory || !footprint(directory.get()).any) return {};
  const auto entries = directory_entries(directory.get(), kInsideLimit, path.native());
  if (!entries || std::none_of(entries->begin(), entries->end(), is_leftover)) return {};
  // Who changes a snapshot holds this lock.
  VMMD_ASSIGN(const bool locked, lock_directory(directory.get(), false));
  if (!locked) return {};
  for (const std::string& entry : *entries) {
    if (!is_leftover(entry)) continue;
    if (retry([&] { return ::unlinkat(directory.get(), entry.c_str(), 0); }) == 0) {
      removed.push_back(path / entry);
    } else if (errno != ENOENT) {
      return fail_errno(ErrorCode::Internal, errno, "cannot remove {}/{}", path.native(), entry);
    }
  }
  return {};
}

}  // namespace

Result<std::vector<std::filesystem::path>> collect_inside(const std::filesystem::path& parent) {
  VMMD_ASSIGN(const UniqueFd directory, open_file(parent, O_RDONLY | O_DIRECTORY));
  VMMD_ASSIGN(std::vector<std::string> entries,
              directory_entries(directory.get(), kParentLimit, parent.native()));
  std::sort(entries.begin(), entries.end());
  std::vector<std::filesystem::path> removed;
  VMMD_TRY(collect_in(parent, removed));
  for (const std::string& entry : entries) {
    if (entry.front() != '.') VMMD_TRY(collect_in(parent / entry, removed));
  }
  return removed;
}

Result<SnapshotDescription> describe(const std::filesystem::path& path) {
  SnapshotDescription description;
  description.path = path;
  std::filesystem::path named = path;
  if (!named.has_filename()) named = named.parent_path();
  description.name = named.filename().native();
  const UniqueFd directory(retry([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (!directory) {
    if (errno == ENOTDIR) return description;
    if (errno == ENOENT) return fail(ErrorCode::NotFound, "there is nothing at {}", path.native());
    return fail_errno(ErrorCode::BadRequest, errno, "cannot open {}", path.native());
  }
  const Footprint found = footprint(directory.get());
  if (!found.any && !found.unreadable) return description;
  description.size_on_disk = found.bytes;
  Problems problems;
  auto snapshot = inspect_snapshot(path, {.allow_consumed = true}, problems);
  if (snapshot) description.manifest = std::move(snapshot->manifest);
  description.problems = problems.messages();
  description.state = found.unreadable                      ? SnapshotState::Unreadable
                      : !problems.empty()                   ? SnapshotState::Torn
                      : description.manifest.has_consumed() ? SnapshotState::Consumed
                                                            : SnapshotState::Complete;
  return description;
}

Result<std::vector<SnapshotDescription>> list_snapshots(const std::filesystem::path& parent) {
  VMMD_ASSIGN(const UniqueFd directory, open_file(parent, O_RDONLY | O_DIRECTORY));
  VMMD_ASSIGN(std::vector<std::string> entries,
              directory_entries(directory.get(), kParentLimit, parent.native()));
  std::sort(entries.begin(), entries.end());
  std::vector<SnapshotDescription> snapshots;
  for (const std::string& entry : entries) {
    if (entry.front() == '.') continue;
    auto description = describe(parent / entry);
    if (description && description->state == SnapshotState::NotASnapshot) continue;
    if (description) {
      snapshots.push_back(std::move(*description));
    } else if (description.error().code != ErrorCode::NotFound) {  // gone meanwhile
      snapshots.push_back({.state = SnapshotState::Unreadable,
                           .path = parent / entry,
                           .name = entry,
                           .manifest = {},
                           .size_on_disk = 0,
                           .problems = {description.error().to_string()}});
    }
  }
  return snapshots;
}

Status remove_snapshot(const std::filesystem::path& path) {
  VMMD_ASSIGN(const Destination found, split_destination(path));
  const int parent = found.parent.get();
  const UniqueFd directory(retry(
      [&] { return ::openat(parent, found.name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); }));
  if (!directory) {
    switch (errno) {
      case ENOENT:
        return fail(ErrorCode::NotFound, "there is no snapshot at {}", path.native());
      case ELOOP:
      case ENOTDIR:
        return fail(ErrorCode::BadRequest, "{} is not a directory", path.native());
      default:
        return fail_errno(ErrorCode::BadRequest, errno, "cannot open {}", path.native());
    }
  }
  VMMD_TRY(check_removable(directory.get(), path.native()));
  // Held until the end, so that a collector does not take the hidden directory for a leftover.
  VMMD_ASSIGN(const ChangeLock lock, ChangeLock::take(directory.get(), path.native()));
  VMMD_ASSIGN(const std::string hidden, hidden_name(found.name, HiddenKind::Deleted));
  if (!is_same_file(parent, found.name, directory.get())) {
    return fail(ErrorCode::Conflict, "{} was replaced by something else meanwhile", path.native());
  }
  if (retry([&] { return ::renameat(parent, found.name.c_str(), parent, hidden.c_str()); }) != 0) {
    return fail_writing(errno, "cannot delete ", path.native());
  }
  VMMD_TRY(sync_file(parent, found.parent_path.native()));
  VMMD_TRY(remove_flat_directory(parent, hidden, directory.get(), path));
  return sync_file(parent, found.parent_path.native());
}

}  // namespace vmmd::snapshot
