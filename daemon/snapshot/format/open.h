#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "daemon/snapshot/format/memory_digests.h"
#include "daemon/snapshot/format/problems.h"
#include "proto/snapshot.pb.h"
#include "proto/state.pb.h"

namespace vmmd::snapshot {

struct OpenOptions {
  /// Open memory.bin for writing too: for a `shared` restore.
  bool writable_memory = false;
  /// Accept a snapshot whose memory a `shared` restore has taken: for looking at it.
  bool allow_consumed = false;
  /// Accept a config.json that differs from its digest: for seal().
  bool allow_edited_config = false;
};

/// An open, checked snapshot. Each file was opened once; nothing is looked up by name again.
struct OpenSnapshot {
  std::filesystem::path path;  // as given, for messages
  UniqueFd directory;
  SnapshotManifest manifest;
  state::SavedState state;
  std::string config;                      // the text of config.json
  UniqueFd memory;                         // memory.bin
  std::map<std::string, UniqueFd> layers;  // of disks, by name; only their lengths have been checked
  UniqueFd digests;  // memory.digests; none when the manifest records none. Its content is not checked yet.

  /// The layers for somebody else to keep.
  [[nodiscard]] Result<std::map<std::string, UniqueFd>> duplicate_layers() const;
};

/// Opens and checks everything but the content of memory.bin: its cost does not depend on the memory's size.
/// `path` itself may be a symbolic link to the directory; inside it none is followed.
///
///     VMMD_ASSIGN(OpenSnapshot snapshot, open_snapshot("/snapshots/one"));
///
/// An error lists every problem, after one headline. NotFound when there is nothing at `path`.
Result<OpenSnapshot> open_snapshot(const std::filesystem::path& path, const OpenOptions& options = {});

/// As open_snapshot(), for callers with checks of their own (host, overrides) that belong in the same error:
/// adds what is wrong to `problems` and returns the snapshot whenever its manifest can be trusted. Parts with
/// problems are then empty.
std::optional<OpenSnapshot> inspect_snapshot(const std::filesystem::path& path, const OpenOptions& options,
                                             Problems& problems);

/// The digests of memory.bin, checked against the manifest. NotFound when the snapshot has none.
Result<MemoryDigests> load_memory_digests(const OpenSnapshot& snapshot);

/// Shared: this process maps memory.bin copy-on-write. Exclusive: memory.bin becomes its live RAM.
enum class MemoryLock { Shared, Exclusive };

/// Locks memory.bin for as long as `snapshot.memory` (or a duplicate of it) is open. Conflict when others
/// hold it. Filesystems without locks: succeeds for Shared, NotSupported for Exclusive.
Status lock_memory(const OpenSnapshot& snapshot, MemoryLock kind);

/// What lock_memory() would say now, as far as flock_holders() knows. Takes nothing.
Status probe_memory_lock(const OpenSnapshot& snapshot, MemoryLock kind);

}  // namespace vmmd::snapshot
