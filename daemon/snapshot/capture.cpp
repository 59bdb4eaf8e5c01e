#include "daemon/snapshot/capture.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>

#include <cerrno>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "api/config_json.h"
#include "api/options.h"
#include "base/version.h"
#include "daemon/snapshot/cpu_identity.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/posix.h"
#include "daemon/snapshot/format/staging.h"
#include "daemon/snapshot/memory_copy.h"
#include "daemon/snapshot/restorable/restorable.h"
#include "daemon/snapshot/units.h"

namespace vmmd::snapshot {

namespace {

using Mode = api::SnapshotRequest::Mode;

struct Captured {
  CaptureMode mode = CAPTURE_MODE_COPY;
  std::uint64_t bytes_written = 0;
  std::optional<MemoryDigests> digests;
};

std::string mode_name(CaptureMode mode) {
  switch (mode) {
    case CAPTURE_MODE_LINK:
      return "link";
    case CAPTURE_MODE_REFLINK:
      return "reflink";
    default:
      return "copy";
  }
}

Result<Captured> copy_ram(const memory::GuestRam& ram, int fd, StagedSnapshot& staged, Job& job) {
  Captured captured{CAPTURE_MODE_COPY, 0, MemoryDigests(ram.size())};
  const auto leave = [&staged](std::vector<std::jthread> writers) {
    staged.leave_behind(std::move(writers));
  };
  VMMD_ASSIGN(captured.bytes_written, copy_memory_out(ram, fd, *captured.digests, job, leave));
  return captured;
}

Result<Captured> link_ram(const memory::GuestRam& ram, const std::string& name, StagedSnapshot& staged) {
  VMMD_TRY(staged.link_file(kMemoryName, ram.fd(), name));
  return Captured{CAPTURE_MODE_LINK, 0, std::nullopt};
}

// Conflict where the two files cannot share blocks; `fd` is as empty as before then.
Result<Captured> reflink_ram(const memory::GuestRam& ram, int fd) {
  if (::ioctl(fd, FICLONE, ram.fd()) == 0) return Captured{CAPTURE_MODE_REFLINK, 0, std::nullopt};
  const int error = errno;
  switch (error) {
    case EXDEV:
    case EOPNOTSUPP:
    case EPERM:
    case EINVAL:
    case ENOTTY:
      return fail_errno(
          ErrorCode::Conflict, error,
          "the filesystem cannot clone the memory file: memory file and snapshot must be on one "
          "filesystem with reflinks (XFS, btrfs); use mode copy or link");
    default:
      return fail_errno(ErrorCode::Internal, error, "cannot clone the memory file");
  }
}

Status check_links(const memory::GuestRam& ram, Mode mode) {
  if (ram.backing() == memory::Backing::File) return {};
  std::string_view why = "needs RAM that lives in a file of its own (memory.file); use mode copy or auto";
  if (ram.file_given_up()) {
    why =
        "needs RAM that lives in its file: this VM's left memory.file when that was linked into a snapshot, "
        "and is in a file again when the VM is booted again; use mode copy or auto";
  } else if (ram.backing() == memory::Backing::PrivateFile) {
    why =
        "needs RAM that lives in a file of its own: this VM was restored copy-on-write; use mode copy or "
        "auto, or restore with memory_restore_mode copy and a memory.file";
  }
  return fail(ErrorCode::BadRequest, "mode {} {}", mode == Mode::Link ? "link" : "reflink", why);
}

// Not where it was tried, that is. A disk that fails would only fail again.
bool is_impossible(const Result<Captured>& captured) {
  return !captured && captured.error().code == ErrorCode::Conflict;
}

// The cheapest that is possible, if the user left it to us: a link needs no special filesystem, a clone no
// file that has one name and one owner.
Result<Captured> capture_ram(const memory::GuestRam& ram, const std::string& file, Mode mode,
                             StagedSnapshot& staged, Job& job) {
  if (mode == Mode::Link || mode == Mode::Reflink) VMMD_TRY(check_links(ram, mode));
  const bool is_auto_in_file = mode == Mode::Auto && ram.backing() == memory::Backing::File;
  if (mode == Mode::Link || is_auto_in_file) {
    auto linked = link_ram(ram, file, staged);
    if (mode == Mode::Link || !is_impossible(linked)) return linked;
  }
  VMMD_ASSIGN(const int fd, staged.create_file(kMemoryName));
  if (mode == Mode::Reflink || is_auto_in_file) {
    auto cloned = reflink_ram(ram, fd);
    if (mode == Mode::Reflink || !is_impossible(cloned)) return cloned;
  }
  return copy_ram(ram, fd, staged, job);
}

// Whatever a cancelled step says, the reason is that it was cancelled.
Status or_cancelled(Status status, const Job& job) {
  if (!status) VMMD_TRY(job.check());
  return status;
}

Result<SnapshotManifest> describe(const vm::Machine& machine, const state::SavedState& saved,
                                  const api::SnapshotRequest& request) {
  SnapshotManifest manifest;
  manifest.set_vmmd_version(std::string(kVersion));
  manifest.set_vmmd_build(std::string(kBuild));
  utsname host = {};
  if (::uname(&host) == 0) manifest.set_host_kernel(host.release);
  manifest.set_memory_size_bytes(machine.ram().size());
  manifest.set_vp_count(static_cast<std::uint32_t>(machine.vcpus().size()));
  for (const memory::RamRange& range : machine.ram().layout()) {
    MemoryRange& entry = *manifest.add_memory_layout();
    entry.set_guest_address(range.start.value);
    entry.set_length(range.size);
    entry.set_file_offset(range.file_offset);
  }
  for (const auto& [key, value] : request.labels) (*manifest.mutable_labels())[key] = value;
  for (const state::SavedUnit& unit : saved.units()) {
    if (unit.name() != machine.vcpus().front()->unit_name()) continue;
    state::Vcpu vcpu;
    if (!vcpu.ParseFromString(unit.state().value()))
      return fail(ErrorCode::Internal, "vCPU state does not parse");
    *manifest.mutable_cpu() = cpu_identity(vcpu);
  }
  return manifest;
}

// The devices are paused: nothing changes them any more.
Result<std::vector<IdentifiedDisk>> identify_disks(const api::VmConfig& config, SnapshotManifest& manifest) {
  std::vector<IdentifiedDisk> disks;
  for (const DiskFile& file : disk_files(config)) {
    auto disk = identify_disk(file);
    if (!disk) return wrap(std::move(disk).error(), "a snapshot without this could not be restored");
    *manifest.add_disks() = disk->disk;
    disks.push_back(std::move(*disk));
  }
  return disks;
}

std::string mib(std::uint64_t bytes) {
  constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
  return fmt::format("{} MiB", (bytes + kMiB - 1) / kMiB);
}

// For want of space: where, how much there was, and how much it may take. Before the snapshot is removed.
Error explain(Error error, const StagedSnapshot& staged, const Job& job) {
  const Space space = space_of(error);
  if (space == Space::Enough) return error;
  const std::string need =
      job.total() == 0 ? std::string() : fmt::format(", and its memory alone may need {}", mib(job.total()));
  const std::string found = space == Space::DiskFull
                                ? fmt::format("its filesystem has {} for it", mib(staged.room()))
                                : std::string("the quota there does not grant it the space");
  error.messages.insert(error.messages.begin(),
                        fmt::format("cannot write the snapshot {}: {}{}; nothing of it is left",
                                    staged.destination().native(), found, need));
  return error;
}

struct Contents {
  SnapshotManifest manifest;
  state::SavedState state;
};

Result<api::SnapshotResult> write_snapshot(vm::Machine& machine, const api::VmConfig& config,
                                           const api::SnapshotRequest& request, Contents contents,
                                           StagedSnapshot& staged, Job& job) {
  job.enter_phase("disks");
  for (const vm::HostSide::Device& device : machine.host().devices()) {
    VMMD_TRY(device.end->check_whole());
    const std::string name = device.end->snapshot_file();
    if (name.empty()) continue;
    VMMD_ASSIGN(const int fd, staged.create_layer(name));
    VMMD_TRY(or_cancelled(device.end->save_file(fd, job.stop_token()), job));
  }
  job.enter_phase("memory");
  VMMD_TRY(machine.ram().check_whole());
  VMMD_ASSIGN(Captured captured, capture_ram(machine.ram(), config.memory.file.value_or("the memory file"),
                                             request.mode, staged, job));
  VMMD_TRY(machine.ram().check_whole());  // reading it may have been what found a page missing
  contents.manifest.set_capture_mode(captured.mode);

  VMMD_TRY(job.check());
  job.enter_phase("sync");
  const bool has_digests = captured.digests.has_value();
  VMMD_TRY(or_cancelled(staged.prepare({.manifest = std::move(contents.manifest),
                                        .state = std::move(contents.state),
                                        .config = api::to_json(config, true),
                                        .digests = std::move(captured.digests)}),
                        job));
  VMMD_TRY(job.check());
  job.enter_phase("publish");
  // The file is the snapshot's from the rename on: take our hands off it before, and for good. If the rename
  // fails the VM goes on with private RAM, which is as correct as before.
  if (captured.mode == CAPTURE_MODE_LINK) VMMD_TRY(machine.ram().remap_private());
  VMMD_TRY(or_cancelled(staged.commit(), job));
  return api::SnapshotResult{staged.id().to_string(), mode_name(captured.mode), captured.bytes_written,
                             has_digests};
}

}  // namespace

Result<api::SnapshotResult> take_snapshot(vm::Machine& machine, const api::VmConfig& config,
                                          const api::SnapshotRequest& request, Job& job, SideThread& sync) {
  VMMD_ASSIGN(const auto destination, api::path_from_file_url(request.destination_url));
  job.enter_phase("devices");
  const auto units = machine.units();
  VMMD_ASSIGN(state::SavedState saved, save_units(units));
  VMMD_ASSIGN(SnapshotManifest manifest, describe(machine, saved, request));
  VMMD_ASSIGN(std::vector<IdentifiedDisk> disks, identify_disks(config, manifest));

  VMMD_ASSIGN(StagedSnapshot staged, StagedSnapshot::begin(destination, {&sync, job.stop_token()}));
  // What the guest's caches hold for written had better survive the host, too.
  for (IdentifiedDisk& disk : disks) {
    if (!disk.disk.readonly()) staged.sync_as_well(std::move(disk.file), disk.disk.path());
  }
  auto result =
      write_snapshot(machine, config, request, {std::move(manifest), std::move(saved)}, staged, job);
  if (!result) return tl::make_unexpected(explain(std::move(result).error(), staged, job));
  return result;
}

}  // namespace vmmd::snapshot
