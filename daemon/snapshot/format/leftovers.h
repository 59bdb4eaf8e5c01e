#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

// Hidden directories beside snapshots: `.<name>.vmmd-<pid>-<16 hex digits>.partial` while one is written and
// `….deleted` while one is removed. Their owner holds a flock on them; one without is a leftover.
namespace vmmd::snapshot {

enum class HiddenKind { Partial, Deleted };

/// A fresh hidden name for the snapshot `name`. TooLarge when the filesystem could not hold it.
Result<std::string> hidden_name(std::string_view name, HiddenKind kind);

/// The snapshot name inside a hidden name, or empty when `entry` is not exactly of that form.
[[nodiscard]] std::string_view hidden_for(std::string_view entry);

/// Tries to lock the open directory for us alone. False when somebody else holds it. Filesystems without
/// locks count as locked by us when `optional`, as locked by others otherwise.
Result<bool> lock_directory(int directory, bool optional);

/// Is `name` in `parent` (still) the file behind `fd`?
[[nodiscard]] bool is_same_file(int parent, const std::string& name, int fd);

/// Unlinks all files in the open directory `fd`, then the directory `name` in `parent`. Does not descend.
Status remove_flat_directory(int parent, const std::string& name, int fd, const std::filesystem::path& shown);

/// Removes the hidden directories in `parent` whose owner is gone, those of snapshot `name` only unless it is
/// empty. Returns what was removed. Anything else in `parent` stays untouched.
Result<std::vector<std::filesystem::path>> collect_leftovers(const std::filesystem::path& parent,
                                                             std::string_view name = {});

}  // namespace vmmd::snapshot
