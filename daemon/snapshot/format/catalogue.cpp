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

bool is_ours(std::string_view entry) {
  if (std::find(kNames.begin(), kNames.end(), entry) != kNames.end() || is_layer_name(entry)) return true;
  // Left by an interrupted change (reseal.h).
  const std::string_view replaced = hidden_for(entry);
  return !replaced.empty() && std::find(kNames.begin(), kNames.end(), replaced) != kNames.end();
}

struct Footprint {
  bool any = false;  // is one of the files there?
  std::uint64_t bytes = 0;
};

Footprint footprint(int directory) {
  Footprint found;
  for (const std::string_view name : kNames) {
    struct stat info = {};
    if (::fstatat(directory, std::string(name).c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
    found.any = true;
    if (S_ISREG(info.st_mode)) found.bytes += static_cast<std::uint64_t>(info.st_blocks) * kBlock;
  }
  // Their layers, which have no fixed names.
  const auto entries = directory_entries(directory, kInsideLimit, "");
  for (const std::string& entry : entries ? *entries : std::vector<std::string>()) {
    struct stat info = {};
    if (!is_layer_name(entry) || ::fstatat(directory, entry.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0)
      continue;
    if (S_ISREG(info.st_mode)) found.bytes += static_cast<std::uint64_t>(info.st_blocks) * kBlock;
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
    case SnapshotState::NotASnapshot:
      break;
  }
  return "not a snapshot";
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
  if (!found.any) return description;
  description.size_on_disk = found.bytes;
  Problems problems;
  auto snapshot = inspect_snapshot(path, {.allow_consumed = true}, problems);
  if (snapshot) description.manifest = std::move(snapshot->manifest);
  description.problems = problems.messages();
  description.state = !problems.empty()                     ? SnapshotState::Torn
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
    // Gone meanwhile, or not ours to look at: a list of the others is still worth having.
    if (!description || description->state == SnapshotState::NotASnapshot) continue;
    snapshots.push_back(std::move(*description));
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
