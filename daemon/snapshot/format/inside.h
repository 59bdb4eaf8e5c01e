#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"
#include "proto/snapshot.pb.h"

// Looking into an open snapshot directory, which may be hostile.
namespace vmmd::snapshot {

/// Opens a regular file of the directory, following nothing and waiting for nothing. NotFound if missing.
Result<UniqueFd> open_inside(int directory, std::string_view name, int flags);

/// Reads and decodes manifest.bin. Its fields are not validated yet.
Result<SnapshotManifest> read_manifest(int directory);

/// Excludes other changes of the directory (seal, mark, delete) while it lives. The descriptor outlives it.
class [[nodiscard]] ChangeLock {
 public:
  /// Conflict when somebody else is changing it.
  static Result<ChangeLock> take(int directory, const std::string& path);
  /// What take() would say now, as far as flock_holders() knows. Takes nothing.
  static Status probe(int directory, const std::string& path);

  ChangeLock(ChangeLock&& other) noexcept : directory_(std::exchange(other.directory_, -1)) {}
  ChangeLock& operator=(ChangeLock&&) = delete;
  ~ChangeLock();

 private:
  explicit ChangeLock(int directory) : directory_(directory) {}
  int directory_;
};

}  // namespace vmmd::snapshot
