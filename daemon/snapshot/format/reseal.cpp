#include "daemon/snapshot/format/reseal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <set>
#include <utility>

#include "base/file.h"
#include "base/printable.h"
#include "daemon/snapshot/format/digest.h"
#include "daemon/snapshot/format/inside.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/leftovers.h"
#include "daemon/snapshot/format/manifest.h"
#include "daemon/snapshot/format/posix.h"

namespace vmmd::snapshot {
namespace {

File* mutable_file(SnapshotManifest& manifest, std::string_view name) {
  for (File& file : *manifest.mutable_files()) {
    if (file.name() == name) return &file;
  }
  return nullptr;
}

/// Replaces `name` in the directory in one step: complete, synced and of mode 0600 before it has the name.
/// What a crash leaves has a hidden name, which readers ignore and remove_snapshot() knows.
Status replace_file(const OpenSnapshot& snapshot, std::string_view name, std::string_view content) {
  const int directory = snapshot.directory.get();
  const std::string path = (snapshot.path / name).native();
  VMMD_ASSIGN(const std::string fresh, hidden_name(name, HiddenKind::Partial));
  UniqueFd fd(retry([&] {
    return ::openat(directory, fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  }));
  if (!fd) return fail_writing(errno, "cannot replace ", path);
  auto written = write_all_at(fd.get(), std::as_bytes(std::span(content)), 0, path);
  if (written) written = sync_file(fd.get(), path);
  const std::string final_name(name);
  if (written &&
      retry([&] { return ::renameat(directory, fresh.c_str(), directory, final_name.c_str()); }) != 0) {
    written = fail_writing(errno, "cannot replace ", path);
  }
  if (!written) {
    ::unlinkat(directory, fresh.c_str(), 0);
    return written;
  }
  return sync_file(directory, snapshot.path.native());
}

Status replace_manifest(const OpenSnapshot& snapshot, const SnapshotManifest& manifest) {
  Problems problems;
  validate_manifest(manifest, problems);
  VMMD_TRY(problems.to_status(
      ErrorCode::BadRequest,
      fmt::format("the changed manifest of {} would not be valid", snapshot.path.native())));
  const std::string bytes = encode_manifest(manifest);
  if (bytes.size() > kManifestLimit) {
    return fail(ErrorCode::TooLarge, "{} would have {} bytes; at most {} are allowed", kManifestName,
                bytes.size(), kManifestLimit);
  }
  return replace_file(snapshot, kManifestName, bytes);
}

/// The manifest as it is now that nobody else changes it: it may have changed since `snapshot` was opened.
Result<SnapshotManifest> current_manifest(const OpenSnapshot& snapshot) {
  VMMD_ASSIGN(SnapshotManifest manifest, read_manifest(snapshot.directory.get()));
  if (manifest.snapshot_id() != snapshot.manifest.snapshot_id()) {
    return fail(ErrorCode::Conflict, "the snapshot {} was replaced by another meanwhile",
                snapshot.path.native());
  }
  if (manifest.has_consumed()) {
    return fail(ErrorCode::Conflict, "the memory of {} was taken by a shared restore ({})",
                snapshot.path.native(), shown(manifest.consumed().by()));
  }
  return manifest;
}

const DiskFile* find_disk(const std::vector<DiskFile>& disks, const std::string& id) {
  const auto file =
      std::find_if(disks.begin(), disks.end(), [&](const DiskFile& candidate) { return candidate.id == id; });
  return file == disks.end() ? nullptr : &*file;
}

/// Layers that the edit gave to disks: as they are now is what a restore will ask for. One that is not there
/// yet is made by it.
Status add_layers(SnapshotManifest& manifest, const std::vector<DiskFile>& before,
                  const std::vector<DiskFile>& now) {
  std::set<std::string> listed;
  for (const Disk& saved : manifest.disks()) listed.insert(saved.id());
  for (const DiskFile& file : now) {
    if (file.role != "layer" || listed.contains(file.id)) continue;
    const DiskFile* old = find_disk(before, file.id);
    if (old != nullptr && old->path == file.path) continue;
    if (::access(file.path.c_str(), F_OK) != 0 && errno == ENOENT) continue;
    VMMD_ASSIGN(const IdentifiedDisk found, identify_disk(file));
    *manifest.add_disks() = found.disk;
  }
  return {};
}

Status move_disks(SnapshotManifest& manifest, const std::vector<DiskFile>& disks) {
  for (Disk& saved : *manifest.mutable_disks()) {
    const DiskFile* file = find_disk(disks, saved.id());
    if (file == nullptr || file->path == saved.path()) continue;
    VMMD_ASSIGN(const IdentifiedDisk found, identify_disk(*file));
    if (found.disk.size_bytes() != saved.size_bytes()) {
      return fail(ErrorCode::BadRequest, "disk {}: {} has {} bytes, the guest knows {}", shown(saved.id()),
                  printable(file->path), found.disk.size_bytes(), saved.size_bytes());
    }
    saved.set_path(file->path);
    saved.set_mtime_ns(found.disk.mtime_ns());
  }
  return {};
}

}  // namespace

Result<bool> seal(const std::filesystem::path& path, const ConfigCheck& check, const DisksOf& disks_of) {
  VMMD_ASSIGN(const OpenSnapshot snapshot, open_snapshot(path, {.allow_edited_config = true}));
  VMMD_ASSIGN(const ChangeLock lock, ChangeLock::take(snapshot.directory.get(), path.native()));
  VMMD_ASSIGN(SnapshotManifest manifest, current_manifest(snapshot));
  if (snapshot.config == manifest.config()) return false;
  VMMD_TRY(check(manifest.config(), snapshot.config));
  if (disks_of) {
    VMMD_ASSIGN(const std::vector<DiskFile> disks, disks_of(snapshot.config));
    VMMD_TRY(move_disks(manifest, disks));
    VMMD_ASSIGN(const std::vector<DiskFile> before, disks_of(manifest.config()));
    VMMD_TRY(add_layers(manifest, before, disks));
  }
  // Editors need not sync what they write.
  VMMD_ASSIGN(const UniqueFd config, open_inside(snapshot.directory.get(), kConfigName, O_RDONLY));
  VMMD_TRY(sync_file(config.get(), std::string(kConfigName)));
  File& listed = *mutable_file(manifest, kConfigName);
  listed.set_length(snapshot.config.size());
  listed.set_digest(Digest::of(snapshot.config).to_bytes());
  manifest.set_config(snapshot.config);
  *manifest.mutable_config_sealed_at() = timestamp_now();
  VMMD_TRY(replace_manifest(snapshot, manifest));
  return true;
}

Status mark_consumed(OpenSnapshot& snapshot, const std::string& by) {
  VMMD_ASSIGN(const ChangeLock lock, ChangeLock::take(snapshot.directory.get(), snapshot.path.native()));
  VMMD_ASSIGN(SnapshotManifest manifest, current_manifest(snapshot));
  *manifest.mutable_consumed()->mutable_at() = timestamp_now();
  manifest.mutable_consumed()->set_by(by);
  VMMD_TRY(replace_manifest(snapshot, manifest));
  snapshot.manifest = std::move(manifest);
  return {};
}

Result<bool> record_memory_digests(OpenSnapshot& snapshot, const VerifyProgress& progress, unsigned threads) {
  if (snapshot.digests) return true;
  // Without the lock, because it takes long. Should a shared restore take the memory meanwhile, what was read
  // is worthless, and the manifest below says so.
  VMMD_ASSIGN(const std::optional<MemoryDigests> digests, digest_memory(snapshot, progress, threads));
  if (!digests) return false;
  const int directory = snapshot.directory.get();
  VMMD_ASSIGN(const ChangeLock lock, ChangeLock::take(directory, snapshot.path.native()));
  VMMD_ASSIGN(SnapshotManifest manifest, current_manifest(snapshot));
  if (find_file(manifest, kDigestsName) == nullptr) {
    const std::string table = digests->serialize();
    // First the file, then the manifest that lists it: in between it is a file that nobody asks for.
    VMMD_TRY(replace_file(snapshot, kDigestsName, table));
    manifest.set_memory_chunk_size(kChunkSize);
    File& listed = *manifest.add_files();
    listed.set_name(std::string(kDigestsName));
    listed.set_length(table.size());
    listed.set_digest(Digest::of(table).to_bytes());
    VMMD_TRY(replace_manifest(snapshot, manifest));
  }
  VMMD_ASSIGN(snapshot.digests, open_inside(directory, kDigestsName, O_RDONLY));
  snapshot.manifest = std::move(manifest);
  return true;
}

}  // namespace vmmd::snapshot
