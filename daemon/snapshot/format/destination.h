#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace vmmd::snapshot {

/// Where a snapshot is to appear.
struct Destination {
  std::filesystem::path parent_path;
  UniqueFd parent;                        // everything goes through it, whatever becomes of the path
  std::string name;                       // in `parent`
  std::optional<unsigned> replaced_mode;  // permission bits of the empty directory that is there
};

/// Absent or an empty directory, in a parent that exists. Everything else has its own message. Changes
/// nothing.
Result<Destination> examine_destination(const std::filesystem::path& destination);

/// Splits a path for a rename: parent (opened) and name. Refuses "", "/", "." and "..".
Result<Destination> split_destination(const std::filesystem::path& destination);

/// The message for a failed rename into place.
[[nodiscard]] tl::unexpected<Error> fail_placing(int error, const std::filesystem::path& destination);

}  // namespace vmmd::snapshot
