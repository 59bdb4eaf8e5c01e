#include "daemon/snapshot/format/staging.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/file.h"
#include "daemon/snapshot/format/destination.h"
#include "daemon/snapshot/format/id_attribute.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/leftovers.h"
#include "daemon/snapshot/format/manifest.h"
#include "daemon/snapshot/format/posix.h"

namespace vmmd::snapshot {
namespace {

constexpr std::uint64_t kStatBlock = 512;  // bytes, stat(2)

struct Hidden {
  std::string name;
  UniqueFd directory;
};

/// Makes and locks the hidden directory. A collector may take it in the instant before it is locked: then
/// another name is tried.
Result<Hidden> make_hidden(int parent, std::string_view name, const std::string& parent_path) {
  constexpr int kAttempts = 16;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    VMMD_ASSIGN(std::string hidden, hidden_name(name, HiddenKind::Partial));
    if (retry([&] { return ::mkdirat(parent, hidden.c_str(), 0700); }) != 0) {
      if (errno == EEXIST) continue;
      return fail_writing(errno, "cannot make the snapshot's directory in ", parent_path);
    }
    UniqueFd directory(retry(
        [&] { return ::openat(parent, hidden.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); }));
    if (!directory && errno == ENOENT) continue;
    if (!directory) {
      const int error = errno;
      ::unlinkat(parent, hidden.c_str(), AT_REMOVEDIR);
      return fail_errno(ErrorCode::Internal, error, "cannot open {}/{}", parent_path, hidden);
    }
    auto locked = lock_directory(directory.get(), true);
    if (!locked) {
      ::unlinkat(parent, hidden.c_str(), AT_REMOVEDIR);
      return tl::make_unexpected(std::move(locked).error());
    }
    if (*locked && is_same_file(parent, hidden, directory.get())) {
      return Hidden{std::move(hidden), std::move(directory)};
    }
  }
  return fail(ErrorCode::Internal, "cannot make a hidden directory in {}: others remove it each time",
              parent_path);
}

void list_file(SnapshotManifest& manifest, std::string_view name, std::string_view content) {
  File& file = *manifest.add_files();
  file.set_name(std::string(name));
  file.set_length(content.size());
  file.set_digest(Digest::of(content).to_bytes());
}

/// Everything of the manifest that follows from the rest of the content.
void complete_manifest(SnapshotManifest& manifest, const Uuid& id, const std::string& state_bytes,
                       const StagedSnapshot::Content& content, const std::string& digest_table) {
  manifest.set_version(kManifestVersion);
  *manifest.mutable_created_at() = timestamp_now();
  manifest.set_page_size(kPageSize);
  manifest.set_architecture(std::string(kArchitecture));
  manifest.set_snapshot_id(id.to_string());
  manifest.set_kind(KIND_FULL);
  manifest.set_config(content.config);
  manifest.clear_files();
  list_file(manifest, kStateName, state_bytes);
  list_file(manifest, kConfigName, content.config);
  File& memory = *manifest.add_files();
  memory.set_name(std::string(kMemoryName));
  memory.set_length(manifest.memory_size_bytes());
  manifest.set_memory_chunk_size(content.digests ? kChunkSize : 0);
  if (content.digests) list_file(manifest, kDigestsName, digest_table);
  manifest.clear_units();
  for (const state::SavedUnit& unit : content.state.units()) {
    Unit& listed = *manifest.add_units();
    listed.set_name(unit.name());
    listed.set_version(unit.version());
  }
}

/// What the reader will say of it: never publish what nobody will open. Takes the bytes, because the parser
/// refuses more than the message does (text that is not UTF-8).
Status check_readable(const std::string& manifest_bytes, const std::string& state_bytes) {
  Problems problems;
  auto manifest = decode_manifest(manifest_bytes);
  auto state = decode_state(state_bytes);
  if (!manifest) problems.add(manifest.error());
  if (!state) problems.add(state.error());
  if (manifest) validate_manifest(*manifest, problems);
  if (manifest && state) validate_state(*state, *manifest, problems);
  return problems.to_status(ErrorCode::Internal,
                            "this snapshot could not be opened again, so it is not written");
}

}  // namespace

Result<StagedSnapshot> StagedSnapshot::begin(const std::filesystem::path& destination, SyncPolicy policy) {
  VMMD_ASSIGN(Destination found, examine_destination(destination));
  StagedSnapshot staged(std::move(policy));
  staged.destination_ = destination;
  VMMD_TRY(staged.wait_for([parent = found.parent_path, name = found.name]() -> Status {
    // Only tidying up: that it fails is no reason not to write a snapshot.
    static_cast<void>(collect_leftovers(parent, name));
    return {};
  }));
  staged.name_ = std::move(found.name);
  staged.open_->parent = std::move(found.parent);
  staged.replaced_mode_ = found.replaced_mode;
  VMMD_ASSIGN(staged.id_, Uuid::random());
  VMMD_ASSIGN(Hidden hidden,
              make_hidden(staged.open_->parent.get(), staged.name_, found.parent_path.native()));
  staged.hidden_name_ = std::move(hidden.name);
  staged.open_->directory = std::move(hidden.directory);
  return staged;
}

StagedSnapshot::StagedSnapshot(StagedSnapshot&& other) noexcept
    : policy_(std::move(other.policy_)),
      destination_(std::move(other.destination_)),
      name_(std::move(other.name_)),
      hidden_name_(std::exchange(other.hidden_name_, {})),
      open_(std::move(other.open_)),
      replaced_mode_(other.replaced_mode_),
      prepared_(other.prepared_),
      left_behind_(other.left_behind_),
      id_(other.id_) {}

StagedSnapshot::~StagedSnapshot() {
  remove();
}

void StagedSnapshot::remove() noexcept {
  if (hidden_name_.empty()) return;
  const std::string hidden = std::exchange(hidden_name_, {});
  // unlink(2) waits for a write(2) to the same file: then it is not for us to wait.
  if (!left_behind_) remove_files(*open_, hidden, destination_);
  if (policy_.thread == nullptr) return;
  policy_.thread->post(
      [open = std::move(open_), hidden, destination = destination_, behind = left_behind_]() mutable {
        if (behind) remove_files(*open, hidden, destination);
        open.reset();  // the last close of a large file that has no name any more frees all of its blocks
      });
}

void StagedSnapshot::remove_files(const Descriptors& open, const std::string& hidden_name,
                                  const std::filesystem::path& destination) {
  // What cannot be removed now is a leftover as soon as our lock goes, and collected later.
  static_cast<void>(remove_flat_directory(open.parent.get(), hidden_name, open.directory.get(), destination));
  // A linked file is its owner's RAM, who would be refused it as the memory of a snapshot that never was.
  for (const StagedFile& file : open.files) {
    if (!file.linked || read_id_attribute(file.fd.get()) == file.former_id) continue;
    remove_id_attribute(file.fd.get());
    if (file.former_id) {
      static_cast<void>(write_id_attribute(file.fd.get(), *file.former_id, file.name));
    }
  }
}

void StagedSnapshot::leave_behind(std::vector<std::jthread> writers) {
  if (policy_.thread == nullptr) return;  // joined here
  left_behind_ = true;
  policy_.thread->post([writers = std::make_shared<std::vector<std::jthread>>(std::move(writers))] {
    for (std::jthread& writer : *writers) writer.join();
  });
}

// Everything that `work` touches is its own: it may be left alone with it.
Status StagedSnapshot::wait_for(std::function<Status()> work) {
  if (policy_.thread == nullptr) return work();
  if (auto outcome = policy_.thread->run(std::move(work), policy_.stop)) return std::move(*outcome);
  return fail(ErrorCode::Conflict, "the snapshot {} was cancelled", destination_.native());
}

Result<int> StagedSnapshot::create_file(std::string_view name) {
  const std::string file(name);
  UniqueFd fd(retry([&] {
    return ::openat(open_->directory.get(), file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                    0600);
  }));
  if (!fd) return fail_writing(errno, fmt::format("cannot create {} for ", name), destination_.native());
  open_->files.push_back({file, std::move(fd)});
  return open_->files.back().fd.get();
}

Result<int> StagedSnapshot::create_layer(const std::string& name) {
  VMMD_ASSIGN(const int fd, create_file(name));
  open_->files.back().layer = true;
  return fd;
}

Status StagedSnapshot::list_layers(SnapshotManifest& manifest) const {
  for (const StagedFile& file : open_->files) {
    if (!file.layer) continue;
    File& listed = *manifest.add_files();
    listed.set_name(file.name);
    VMMD_ASSIGN(const std::uint64_t size, file_size(file.fd.get(), file.name));
    listed.set_length(size);
    VMMD_ASSIGN(const Digest digest, digest_of_file(file.fd.get(), size, file.name,
                                                    [&] { return policy_.stop.stop_requested(); }));
    listed.set_digest(digest.to_bytes());
  }
  return {};
}

Status StagedSnapshot::link_file(std::string_view name, int fd, const std::string& source) {
  struct stat info = {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    return fail(ErrorCode::BadRequest, "{} is no regular file: it cannot be linked", source);
  }
  if (const auto other = snapshot_sharing_file(fd)) {
    return fail(ErrorCode::Conflict,
                "{} is already the memory of snapshot {}: a second link would mix both; use mode copy",
                source, shown(*other));
  }
  const std::string link = fmt::format("/proc/self/fd/{}", fd);
  const std::string file(name);
  int linked = retry([&] {
    return ::linkat(AT_FDCWD, link.c_str(), open_->directory.get(), file.c_str(), AT_SYMLINK_FOLLOW);
  });
  // Without /proc the kernel takes the descriptor itself from a privileged process.
  if (linked != 0 && errno == ENOENT && info.st_nlink > 0) {
    linked = retry([&] { return ::linkat(fd, "", open_->directory.get(), file.c_str(), AT_EMPTY_PATH); });
  }
  if (linked != 0) {
    const int error = errno;
    if (error == EXDEV) {
      return fail(
          ErrorCode::Conflict,
          "{} and {} are on different filesystems, which a hard link cannot span: use mode copy, or a "
          "destination on the filesystem of {}",
          source, destination_.native(), source);
    }
    if (info.st_nlink == 0) return fail(ErrorCode::Conflict, "{} has been deleted: use mode copy", source);
    if (error == EPERM) {
      return fail(
          ErrorCode::Conflict,
          "{} cannot be hard-linked: the filesystem has no hard links, or the file belongs to another "
          "user (sysctl fs.protected_hardlinks); use mode copy",
          source);
    }
    if (error == EMLINK || error == EOPNOTSUPP) {
      return fail_errno(ErrorCode::Conflict, error, "{} can have no further name; use mode copy", source);
    }
    return fail_writing(error, fmt::format("cannot link {} into ", source), destination_.native());
  }
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy) return fail_errno(ErrorCode::Internal, errno, "cannot duplicate the descriptor of {}", source);
  open_->files.push_back(
      {.name = file, .fd = std::move(copy), .linked = true, .former_id = read_id_attribute(fd)});
  return {};
}

Status StagedSnapshot::write_file(std::string_view name, std::string_view content) {
  VMMD_ASSIGN(const int fd, create_file(name));
  auto written = write_out(fd, std::as_bytes(std::span(content)), 0, std::string(name));
  if (!written) return wrap(std::move(written).error(), "cannot write {}", destination_.native());
  return {};
}

std::uint64_t StagedSnapshot::room() const {
  if (open_ == nullptr) return 0;
  struct statvfs filesystem = {};
  std::uint64_t bytes = 0;
  if (::fstatvfs(open_->directory.get(), &filesystem) == 0)
    bytes = std::uint64_t{filesystem.f_bavail} * filesystem.f_frsize;
  for (const StagedFile& file : open_->files) {
    struct stat info = {};
    if (!file.linked && !file.elsewhere && ::fstat(file.fd.get(), &info) == 0)
      bytes += static_cast<std::uint64_t>(info.st_blocks) * kStatBlock;
  }
  return bytes;
}

Status StagedSnapshot::prepare(Content content) {
  int memory = -1;
  for (const StagedFile& file : open_->files) {
    if (file.name == kMemoryName) memory = file.fd.get();
  }
  if (memory < 0) return fail(ErrorCode::Internal, "a snapshot needs its {} first", kMemoryName);
  VMMD_ASSIGN(const std::uint64_t size, file_size(memory, std::string(kMemoryName)));
  if (size != content.manifest.memory_size_bytes()) {
    return fail(ErrorCode::Internal, "{} has {} bytes, the VM {}", kMemoryName, size,
                content.manifest.memory_size_bytes());
  }

  const std::string state_bytes = content.state.SerializeAsString();
  const std::string table = content.digests ? content.digests->serialize() : std::string();
  complete_manifest(content.manifest, id_, state_bytes, content, table);
  VMMD_TRY(list_layers(content.manifest));
  const std::string manifest_bytes = encode_manifest(content.manifest);
  VMMD_TRY(check_readable(manifest_bytes, state_bytes));

  VMMD_TRY(write_file(kStateName, state_bytes));
  VMMD_TRY(write_file(kConfigName, content.config));
  if (content.digests) VMMD_TRY(write_file(kDigestsName, table));
  VMMD_TRY(write_file(kManifestName, manifest_bytes));
  VMMD_TRY(write_id_attribute(memory, id_.to_string(), std::string(kMemoryName)));

  if (replaced_mode_ && ::fchmod(open_->directory.get(), *replaced_mode_) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot give {} its mode", destination_.native());
  }
  VMMD_TRY(wait_for([open = open_, name = destination_.native()] { return sync_all(*open, name); }));
  prepared_ = true;
  return {};
}

Status StagedSnapshot::sync_all(const Descriptors& open, const std::string& destination) {
  // Start all writes, then wait: one journal commit instead of one per file. Only a hint; fsync tells.
  for (const StagedFile& file : open.files) ::sync_file_range(file.fd.get(), 0, 0, SYNC_FILE_RANGE_WRITE);
  // fsync, not fdatasync: the latter need not write extended attributes, link counts and modes.
  for (const StagedFile& file : open.files) {
    auto synced = sync_file(file.fd.get(), file.name);
    if (!synced) return wrap(std::move(synced).error(), "cannot write {}", destination);
  }
  return sync_file(open.directory.get(), destination);
}

Status StagedSnapshot::place() {
  const int parent = open_->parent.get();
  if (replaced_mode_) {
    // rename(2) replaces an empty directory in one step, and nothing else.
    if (retry([&] { return ::renameat(parent, hidden_name_.c_str(), parent, name_.c_str()); }) == 0) {
      return {};
    }
    return fail_placing(errno, destination_);
  }
  const auto rename_new = [&] {
    return ::renameat2(parent, hidden_name_.c_str(), parent, name_.c_str(), RENAME_NOREPLACE);
  };
  if (retry(rename_new) == 0) return {};
  if (errno != EINVAL && errno != ENOSYS) return fail_placing(errno, destination_);
  // A filesystem without RENAME_NOREPLACE: mkdir is what excludes others there.
  if (retry([&] { return ::mkdirat(parent, name_.c_str(), 0700); }) != 0) {
    return fail_placing(errno, destination_);
  }
  if (retry([&] { return ::renameat(parent, hidden_name_.c_str(), parent, name_.c_str()); }) == 0) {
    return {};
  }
  const int error = errno;
  ::unlinkat(parent, name_.c_str(), AT_REMOVEDIR);
  return fail_placing(error, destination_);
}

void StagedSnapshot::unplace() noexcept {
  const int parent = open_->parent.get();
  if (retry([&] { return ::renameat(parent, name_.c_str(), parent, hidden_name_.c_str()); }) != 0) {
    hidden_name_.clear();
    return;
  }
  if (replaced_mode_) ::mkdirat(parent, name_.c_str(), *replaced_mode_);
  remove();
}

Status StagedSnapshot::commit() {
  if (!prepared_ || hidden_name_.empty()) {
    return fail(ErrorCode::Internal, "snapshot {} is not prepared", destination_.native());
  }
  VMMD_TRY(place());
  auto synced = wait_for([open = open_, name = destination_.parent_path().native()] {
    return sync_file(open->parent.get(), name);
  });
  if (!synced) {
    unplace();
    return wrap(std::move(synced).error(),
                "the snapshot {} was complete, but its name could not be made durable",
                destination_.native());
  }
  hidden_name_.clear();
  open_.reset();
  return {};
}

}  // namespace vmmd::snapshot
