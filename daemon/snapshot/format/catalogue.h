#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "proto/snapshot.pb.h"

// Snapshots as things on disk, without a daemon: what `vmm-remote snapshot list|info|delete` show and do.
namespace vmmd::snapshot {

enum class SnapshotState : std::uint8_t {
  Complete,      // open_snapshot() accepts it
  Torn,          // some of the files are there, but open_snapshot() refuses; see `problems`
  Consumed,      // its memory was taken by a `shared` restore
  Unreadable,    // it, or one of its files, cannot be opened: nothing is known of the rest; see `problems`
  NotASnapshot,  // none of the files is there, or no directory
};
[[nodiscard]] std::string_view to_string(SnapshotState state);

struct SnapshotDescription {
  SnapshotState state = SnapshotState::NotASnapshot;
  std::filesystem::path path;
  std::string name;                // last component of the path
  SnapshotManifest manifest;       // what could be read of it; empty when it cannot be trusted
  std::uint64_t size_on_disk = 0;  // bytes allocated to its files
  std::vector<std::string> problems;
};

/// Looks at one directory. An error only when there is nothing at `path` or it cannot be looked at.
Result<SnapshotDescription> describe(const std::filesystem::path& path);

/// All snapshots directly in `parent` in the order of their names, torn ones too, and directories that cannot
/// be looked into. Hidden directories and directories that are no snapshot are left out.
Result<std::vector<SnapshotDescription>> list_snapshots(const std::filesystem::path& parent);

/// Deletes a snapshot, complete or not: takes it out of sight by one rename, then unlinks. Interrupted in
/// between, collect_leftovers() finishes. Refuses what is no snapshot and what holds files of others.
Status remove_snapshot(const std::filesystem::path& path);

/// Removes what interrupted changes (reseal.h) left inside the snapshots in `parent`, and inside `parent` if
/// it is one. Returns what was removed. A snapshot that somebody is changing is passed over.
Result<std::vector<std::filesystem::path>> collect_inside(const std::filesystem::path& parent);

}  // namespace vmmd::snapshot
