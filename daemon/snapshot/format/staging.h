#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/result.h"
#include "base/side_thread.h"
#include "base/unique_fd.h"
#include "base/uuid.h"
#include "daemon/snapshot/format/memory_digests.h"
#include "proto/snapshot.pb.h"
#include "proto/state.pb.h"

namespace vmmd::snapshot {

/// How to wait for the disk. With a thread, whatever may take long there runs on it, and `stop` ends the
/// waiting at once with a Conflict; the thread outlives the snapshot. Without, all is done where it is
/// called.
struct SyncPolicy {
  SideThread* thread = nullptr;
  std::stop_token stop;
};

/// A snapshot that is being written: a hidden sibling of its destination, renamed into place when complete.
///
///     VMMD_ASSIGN(auto staged, StagedSnapshot::begin("/snapshots/one"));
///     VMMD_ASSIGN(const int memory, staged.create_file(kMemoryName));
///     ftruncate(memory, size); pwrite(memory, …);              // the engine: pages that are not zero
///     MemoryDigests digests(size); digests.add(chunk, bytes);  // optional
///     SnapshotManifest manifest;  // memory size and layout, vp_count, cpu, disks, labels, capture mode, …
///     VMMD_TRY(staged.prepare({.manifest = manifest, .state = units, .config = json, .digests = digests}));
///     VMMD_TRY(staged.commit());
///
/// A crash or kill at any instruction leaves either the complete snapshot or none; what is left of the hidden
/// directory is removed by collect_leftovers() (leftovers.h), which begin() calls for the same destination.
/// While this object lives it holds a lock (flock) on the hidden directory, which tells it from a leftover.
/// Without commit() the destructor removes everything; what an fsync that nobody waits for any more still
/// holds has no name then, and goes when that returns. What somebody still writes to (leave_behind()) keeps
/// its hidden name until he ends. Not thread safe, but the descriptors may be used from any thread.
class StagedSnapshot {
 public:
  /// What prepare() completes and writes.
  struct Content {
    /// Filled by the caller: vmmd_version, memory_size_bytes, vp_count, capture_mode, memory_layout, cpu,
    /// disks, vmmd_build, host_kernel, labels. Filled by prepare(): everything else.
    SnapshotManifest manifest;
    state::SavedState state;
    std::string config;  // the text of config.json
    /// Absent where memory.bin was not read (link, reflink): see record_memory_digests() in reseal.h.
    std::optional<MemoryDigests> digests;
  };

  /// The destination is absent or an empty directory, its parent exists. Anything else is refused untouched,
  /// each with its own message. Removes leftovers of killed processes for the same destination.
  static Result<StagedSnapshot> begin(const std::filesystem::path& destination, SyncPolicy policy = {});

  StagedSnapshot(StagedSnapshot&&) noexcept;
  StagedSnapshot& operator=(StagedSnapshot&&) = delete;
  ~StagedSnapshot();

  [[nodiscard]] const Uuid& id() const { return id_; }
  [[nodiscard]] const std::filesystem::path& destination() const { return destination_; }

  /// A new file, 0600, open for reading and writing. The descriptor stays ours until commit() or the end.
  Result<int> create_file(std::string_view name);

  /// As create_file(), for the layer of a disk (see is_layer_name()): prepare() lists it with its digest.
  Result<int> create_layer(const std::string& name);

  /// A hard link to the regular file behind `fd`; `source` is its name for messages. Conflict with the advice
  /// to use copy when this file cannot be linked there, first of all for being on another filesystem; any
  /// other code is a failure of something that should have worked. The file gets our id attribute and is
  /// synced by prepare(), but keeps its mode and owner. Without commit() it is what it was.
  Status link_file(std::string_view name, int fd, const std::string& source);

  /// A file elsewhere that the snapshot counts on: prepare() syncs it too. `name` is for messages.
  void sync_as_well(UniqueFd fd, std::string name) {
    open_->files.push_back({.name = std::move(name), .fd = std::move(fd), .elsewhere = true});
  }

  /// Threads that still write to our files, though nobody waits for them any more. The policy's thread joins
  /// them and removes everything then; there is no commit().
  void leave_behind(std::vector<std::jthread> writers);

  /// Bytes that the filesystem has for this snapshot: free ones, and those that it has taken already. Quotas
  /// may grant less. 0 once the snapshot is given up.
  [[nodiscard]] std::uint64_t room() const;

  /// Writes state.bin, config.json, memory.digests and manifest.bin, marks memory.bin with the id, syncs
  /// every file and the directory. Refuses content that open_snapshot() would refuse. May take long (fsync).
  Status prepare(Content content);

  /// Renames into place and syncs the parent. If that last sync fails, the rename is undone.
  Status commit();

 private:
  struct StagedFile {
    std::string name;
    UniqueFd fd;
    bool layer = false;
    bool linked = false;
    bool elsewhere = false;                     // no file of the snapshot
    std::optional<std::string> former_id = {};  // what the attribute of a linked file said
  };

  /// Shared with work that may outlive the snapshot.
  struct Descriptors {
    UniqueFd parent;
    UniqueFd directory;  // holds the lock
    std::vector<StagedFile> files;
  };

  explicit StagedSnapshot(SyncPolicy policy)
      : policy_(std::move(policy)), open_(std::make_shared<Descriptors>()) {}
  static Status sync_all(const Descriptors& open, const std::string& destination);
  static void remove_files(const Descriptors& open, const std::string& hidden_name,
                           const std::filesystem::path& destination);
  Status write_file(std::string_view name, std::string_view content);
  Status list_layers(SnapshotManifest& manifest) const;
  Status wait_for(std::function<Status()> work);
  Status place();
  void unplace() noexcept;
  void remove() noexcept;

  SyncPolicy policy_;
  std::filesystem::path destination_;  // for messages
  std::string name_;                   // last component of the destination
  std::string hidden_name_;            // empty: nothing to remove
  std::shared_ptr<Descriptors> open_;
  std::optional<unsigned> replaced_mode_;  // the destination is an empty directory of this mode
  bool prepared_ = false;
  bool left_behind_ = false;  // somebody may still write to our files
  Uuid id_;
};

}  // namespace vmmd::snapshot
