#include "daemon/snapshot/format/open.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "base/file.h"
#include "daemon/snapshot/format/digest.h"
#include "daemon/snapshot/format/id_attribute.h"
#include "daemon/snapshot/format/inside.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/lock_holders.h"
#include "daemon/snapshot/format/manifest.h"
#include "daemon/snapshot/format/posix.h"

namespace vmmd::snapshot {
namespace {

/// Opens a file that the manifest lists, and compares its length.
Result<UniqueFd> open_listed(int directory, const File& listed, int flags) {
  VMMD_ASSIGN(UniqueFd fd, open_inside(directory, listed.name(), flags));
  VMMD_ASSIGN(const std::uint64_t size, file_size(fd.get(), listed.name()));
  if (size != listed.length()) {
    return fail(ErrorCode::BadRequest, "{} has {} bytes, but {} were written: {}", listed.name(), size,
                listed.length(),
                size < listed.length() ? "it is cut off, or of another snapshot"
                                       : "something was added, or it is of another snapshot");
  }
  return fd;
}

/// The content of a listed file, whose length the manifest's validation has bounded.
Result<std::string> read_listed(int fd, const File& listed) {
  std::string content(listed.length(), '\0');
  VMMD_TRY(read_exact_at(fd, std::as_writable_bytes(std::span(content)), 0, listed.name()));
  return content;
}

bool has_digest(const File& listed, std::string_view content) {
  return Digest::of(content).to_bytes() == listed.digest();
}

void load_state(OpenSnapshot& snapshot, Problems& problems) {
  const File& listed = *find_file(snapshot.manifest, kStateName);
  const auto load = [&]() -> Status {
    VMMD_ASSIGN(const UniqueFd fd, open_listed(snapshot.directory.get(), listed, O_RDONLY));
    VMMD_ASSIGN(const std::string content, read_listed(fd.get(), listed));
    if (!has_digest(listed, content)) {
      return fail(ErrorCode::BadRequest, "{} is damaged, or of another snapshot: its digest differs",
                  kStateName);
    }
    VMMD_ASSIGN(snapshot.state, decode_state(content));
    return {};
  };
  if (auto loaded = load(); !loaded) return problems.add(loaded.error());
  validate_state(snapshot.state, snapshot.manifest, problems);
}

void load_config(OpenSnapshot& snapshot, bool allow_edited, Problems& problems) {
  const File& listed = *find_file(snapshot.manifest, kConfigName);
  const auto load = [&]() -> Status {
    VMMD_ASSIGN(const UniqueFd fd, open_inside(snapshot.directory.get(), kConfigName, O_RDONLY));
    VMMD_ASSIGN(std::string content, read_small_file(fd.get(), kConfigLimit, std::string(kConfigName)));
    if (!allow_edited && !has_digest(listed, content)) {
      return fail(ErrorCode::BadRequest,
                  "{} was edited or is damaged: its digest differs; after a deliberate edit run "
                  "`vmm-remote snapshot seal {}`, or leave the file and give overrides at restore",
                  kConfigName, snapshot.path.native());
    }
    snapshot.config = std::move(content);
    return {};
  };
  if (auto loaded = load(); !loaded) problems.add(loaded.error());
}

void open_memory(OpenSnapshot& snapshot, bool writable, Problems& problems) {
  const File& listed = *find_file(snapshot.manifest, kMemoryName);
  auto fd = open_listed(snapshot.directory.get(), listed, writable ? O_RDWR : O_RDONLY);
  if (!fd) return problems.add(fd.error());
  const auto id = read_id_attribute(fd->get());
  if (id && *id != snapshot.manifest.snapshot_id()) {
    return problems.add("{} belongs to snapshot {}, the manifest to {}", kMemoryName, shown(*id),
                        snapshot.manifest.snapshot_id());
  }
  snapshot.memory = std::move(*fd);
}

void open_digests(OpenSnapshot& snapshot, Problems& problems) {
  const File* listed = find_file(snapshot.manifest, kDigestsName);
  if (listed == nullptr) return;
  auto fd = open_listed(snapshot.directory.get(), *listed, O_RDONLY);
  if (!fd) return problems.add(fd.error());
  snapshot.digests = std::move(*fd);
}

void open_layers(OpenSnapshot& snapshot, Problems& problems) {
  for (const File& listed : snapshot.manifest.files()) {
    if (!is_layer_name(listed.name())) continue;
    auto fd = open_listed(snapshot.directory.get(), listed, O_RDONLY);
    if (!fd) {
      problems.add(fd.error());
    } else {
      snapshot.layers[listed.name()] = std::move(*fd);
    }
  }
}

/// Adds everything wrong; true when the manifest can be trusted.
bool load_manifest(OpenSnapshot& snapshot, Problems& problems) {
  const auto load = [&]() -> Status {
    VMMD_ASSIGN(snapshot.manifest, read_manifest(snapshot.directory.get()));
    return {};
  };
  if (auto loaded = load(); !loaded) {
    const int directory = snapshot.directory.get();
    const auto there = [directory](std::string_view name) {
      return ::faccessat(directory, std::string(name).c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    };
    if (!there(kManifestName) && !there(kStateName) && !there(kMemoryName)) {
      problems.add("it is not a snapshot directory: it has no {}", kManifestName);
      return false;
    }
    problems.add(loaded.error());
    // Without it nothing is known of the others but whether they are there.
    for (const std::string_view name : {kStateName, kConfigName, kMemoryName}) {
      if (auto fd = open_inside(snapshot.directory.get(), name, O_RDONLY); !fd) problems.add(fd.error());
    }
    return false;
  }
  const std::size_t before = problems.messages().size();
  validate_manifest(snapshot.manifest, problems);
  return problems.messages().size() == before;
}

/// Only that the directory itself could not be opened is not a Problem.
Result<std::optional<OpenSnapshot>> inspect(const std::filesystem::path& path, const OpenOptions& options,
                                            Problems& problems) {
  OpenSnapshot snapshot;
  snapshot.path = path;
  snapshot.directory =
      UniqueFd(retry([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (!snapshot.directory) {
    if (errno == ENOENT) return fail(ErrorCode::NotFound, "there is no snapshot at {}", path.native());
    if (errno == ENOTDIR) return fail(ErrorCode::BadRequest, "{} is not a directory", path.native());
    return fail_errno(ErrorCode::BadRequest, errno, "cannot open the snapshot {}", path.native());
  }
  if (!load_manifest(snapshot, problems)) return std::nullopt;
  if (snapshot.manifest.has_consumed() && !options.allow_consumed) {
    problems.add(
        "{} became the live memory of a shared restore ({}) and no longer fits {}: it cannot be restored "
        "again",
        kMemoryName, shown(snapshot.manifest.consumed().by()), kStateName);
  }
  load_state(snapshot, problems);
  load_config(snapshot, options.allow_edited_config, problems);
  open_memory(snapshot, options.writable_memory, problems);
  open_digests(snapshot, problems);
  open_layers(snapshot, problems);
  return snapshot;
}

}  // namespace

Result<std::map<std::string, UniqueFd>> OpenSnapshot::duplicate_layers() const {
  std::map<std::string, UniqueFd> copies;
  for (const auto& [name, fd] : layers) {
    UniqueFd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
    if (!copy) return fail_errno(ErrorCode::Internal, errno, "cannot duplicate the descriptor of {}", name);
    copies.emplace(name, std::move(copy));
  }
  return copies;
}

Result<OpenSnapshot> open_snapshot(const std::filesystem::path& path, const OpenOptions& options) {
  Problems problems;
  VMMD_ASSIGN(std::optional<OpenSnapshot> snapshot, inspect(path, options, problems));
  VMMD_TRY(
      problems.to_status(ErrorCode::BadRequest, fmt::format("cannot use the snapshot {}", path.native())));
  return std::move(*snapshot);
}

std::optional<OpenSnapshot> inspect_snapshot(const std::filesystem::path& path, const OpenOptions& options,
                                             Problems& problems) {
  auto snapshot = inspect(path, options, problems);
  if (snapshot) return std::move(*snapshot);
  problems.add(snapshot.error());
  return std::nullopt;
}

Result<MemoryDigests> load_memory_digests(const OpenSnapshot& snapshot) {
  const File* listed = find_file(snapshot.manifest, kDigestsName);
  if (listed == nullptr || !snapshot.digests) {
    return fail(
        ErrorCode::NotFound,
        "the snapshot {} has no digests of its memory yet: link and reflink snapshots get them while the "
        "VM runs on, or by `vmm-remote snapshot digest`",
        snapshot.path.native());
  }
  const auto expected = Digest::from_bytes(listed->digest());
  if (!expected) return fail(ErrorCode::BadRequest, "the digest of {} is none", kDigestsName);
  return MemoryDigests::read(snapshot.digests.get(), snapshot.manifest.memory_size_bytes(), *expected);
}

namespace {

tl::unexpected<Error> fail_in_use(const OpenSnapshot& snapshot, MemoryLock kind,
                                  const std::vector<LockHolder>& holders) {
  return fail(ErrorCode::Conflict, "{} of {} is in use by {}{}", kMemoryName, snapshot.path.native(),
              kind == MemoryLock::Shared ? "a shared restore" : "another VM", pids_text(holders));
}

}  // namespace

Status lock_memory(const OpenSnapshot& snapshot, MemoryLock kind) {
  const int operation = kind == MemoryLock::Shared ? LOCK_SH : LOCK_EX;
  if (retry([&] { return ::flock(snapshot.memory.get(), operation | LOCK_NB); }) == 0) return {};
  const int error = errno;
  if (error == EWOULDBLOCK) return fail_in_use(snapshot, kind, flock_holders(snapshot.memory.get()));
  if (kind == MemoryLock::Shared) return {};
  return fail_errno(ErrorCode::NotSupported, error, "cannot lock {} of {}, which a shared restore needs",
                    kMemoryName, snapshot.path.native());
}

Status probe_memory_lock(const OpenSnapshot& snapshot, MemoryLock kind) {
  std::vector<LockHolder> holders = flock_holders(snapshot.memory.get());
  if (kind == MemoryLock::Shared) std::erase_if(holders, [](const LockHolder& h) { return !h.exclusive; });
  return holders.empty() ? Status{} : fail_in_use(snapshot, kind, holders);
}

}  // namespace vmmd::snapshot
