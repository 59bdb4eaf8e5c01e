#include "daemon/snapshot/restore.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "api/options.h"
#include "api/overrides.h"
#include "base/version.h"
#include "daemon/kvm/cpuid_messages.h"
#include "daemon/snapshot/format/cpu_features.h"
#include "daemon/snapshot/format/problems.h"
#include "daemon/snapshot/format/reseal.h"
#include "daemon/snapshot/format/verify.h"
#include "daemon/snapshot/memory_copy.h"
#include "daemon/snapshot/units.h"

namespace vmmd::snapshot {

namespace {

using MemoryMode = api::RestoreRequest::MemoryMode;

// Parallel restores of one snapshot, `copy` as well, keep a `shared` one out; see lock_memory().
MemoryLock lock_kind(MemoryMode mode) {
  return mode == MemoryMode::Shared ? MemoryLock::Exclusive : MemoryLock::Shared;
}

void check_request(const api::RestoreRequest& request, const SnapshotManifest& manifest, Problems& problems) {
  if (request.memory_size && *request.memory_size != manifest.memory_size_bytes()) {
    problems.add("memory size {} was asked for, the snapshot has {} bytes", *request.memory_size,
                 manifest.memory_size_bytes());
  }
  if (request.vcpus && *request.vcpus != manifest.vp_count()) {
    problems.add("{} vCPUs were asked for, the snapshot has {}", *request.vcpus, manifest.vp_count());
  }
}

void check_config(const api::VmConfig& config, const SnapshotManifest& manifest, Problems& problems) {
  if (config.memory.size != manifest.memory_size_bytes()) {
    problems.add("config.json says {} bytes of memory, the manifest {}", config.memory.size,
                 manifest.memory_size_bytes());
  }
  if (config.cpus.boot_vcpus != manifest.vp_count()) {
    problems.add("config.json says {} vCPUs, the manifest {}", config.cpus.boot_vcpus, manifest.vp_count());
  }
}

// Our address map is fixed by the size, so a snapshot of ours always has it; another one cannot be mapped.
std::vector<memory::RamRange> check_layout(const api::VmConfig& config, const SnapshotManifest& manifest,
                                           Problems& problems) {
  auto layout = memory::ram_layout(manifest.memory_size_bytes(), config.cpus.max_phys_bits);
  if (!layout) {
    problems.add(layout.error());
    return {};
  }
  bool same = manifest.memory_layout_size() == static_cast<int>(layout->size());
  for (int i = 0; same && i < manifest.memory_layout_size(); ++i) {
    const MemoryRange& saved = manifest.memory_layout(i);
    const memory::RamRange& ours = layout->at(static_cast<std::size_t>(i));
    same = saved.guest_address() == ours.start.value && saved.length() == ours.size &&
           saved.file_offset() == ours.file_offset;
  }
  if (!same) problems.add("the snapshot's memory layout is not one that this vmmd can map");
  return std::move(*layout);
}

void check_cpu(const SnapshotManifest& manifest, const kvm::Kvm& kvm, Problems& problems) {
  const std::vector<kvm_cpuid_entry2> wanted = kvm::from_messages(manifest.cpu().cpuid());
  const std::vector<std::string> missing = missing_features(wanted, kvm.supported_cpuid());
  if (missing.empty()) return;
  problems.add(
      "this host's CPU lacks {} that the guest was told of ({}); cpu_check=ignore restores nevertheless",
      fmt::join(missing, ", "), manifest.cpu().brand());
}

// Said with everything else that is wrong, not when the memory is read.
void check_verify(const api::RestoreRequest& request, const SnapshotManifest& manifest, Problems& problems) {
  using enum api::RestoreRequest::Verify;
  if (request.verify == None) return;
  if (manifest.memory_chunk_size() == 0) {
    problems.add(
        "the snapshot has no digests of its memory, so it cannot be verified: link and reflink snapshots get "
        "them in the background, or by `vmm-remote snapshot digest`; use verify=none");
  }
  if (request.verify == Lazy && request.memory_mode == MemoryMode::Shared) {
    problems.add(
        "verify=lazy is not possible with mode shared, where the guest changes what is to be read: use full");
  }
}

}  // namespace

Result<RestorePlan> plan_restore(const api::RestoreRequest& request, const kvm::Kvm& kvm) {
  VMMD_ASSIGN(const auto source, api::path_from_file_url(request.source_url));
  Problems problems;
  const OpenOptions open_options{.writable_memory = request.memory_mode == MemoryMode::Shared};
  auto snapshot = inspect_snapshot(source, open_options, problems);
  const std::string headline = fmt::format("cannot restore {}", source.native());
  if (!snapshot) {
    VMMD_TRY(problems.to_status(ErrorCode::BadRequest, headline));
    return fail(ErrorCode::BadRequest, "{}", headline);
  }
  check_request(request, snapshot->manifest, problems);
  check_verify(request, snapshot->manifest, problems);
  if (request.cpu_check == api::RestoreRequest::CpuCheck::Strict)
    check_cpu(snapshot->manifest, kvm, problems);
  RestorePlan plan{std::move(*snapshot), {}, {}, request};
  if (!plan.snapshot.config.empty()) {
    auto config = api::restored_config(plan.snapshot.config, request.overrides);
    if (config) {
      plan.config = std::move(*config);
      check_config(plan.config, plan.snapshot.manifest, problems);
      plan.layout = check_layout(plan.config, plan.snapshot.manifest, problems);
    } else {
      problems.add(config.error());
    }
  }
  VMMD_TRY(problems.to_status(ErrorCode::BadRequest, headline));
  VMMD_TRY(lock_memory(plan.snapshot, lock_kind(request.memory_mode)));
  return plan;
}

namespace {

Result<UniqueFd> duplicate(const UniqueFd& fd) {
  UniqueFd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));  // shares the lock on memory.bin
  if (!copy) return fail_errno(ErrorCode::Internal, errno, "cannot duplicate memory.bin's descriptor");
  return copy;
}

Status verify_all(const OpenSnapshot& snapshot, Job& job) {
  const auto progress = [&job](std::uint64_t done, std::uint64_t total) {
    job.set_progress(done, total);
    return !job.cancelled();
  };
  VMMD_ASSIGN(const VerifyReport report, verify_memory(snapshot, progress));
  VMMD_TRY(job.check());
  if (report.damaged.empty()) return {};
  return fail(ErrorCode::BadRequest,
              "memory.bin is damaged in {} places, first {} bytes at guest address {:#x}",
              report.damaged.size(), report.damaged.front().length, report.damaged.front().guest_address);
}

Result<memory::GuestRam> copy_ram(const RestorePlan& plan, Job& job) {
  VMMD_ASSIGN(memory::GuestRam ram, memory::GuestRam::allocate(plan.config.memory, plan.layout));
  // Copying reads everything anyway, so the digests cost little.
  std::optional<MemoryDigests> digests;
  if (plan.request.verify != api::RestoreRequest::Verify::None) {
    VMMD_ASSIGN(digests, load_memory_digests(plan.snapshot));
  }
  VMMD_TRY(copy_memory_in(plan.snapshot.memory.get(), ram, digests ? &*digests : nullptr, job));
  return ram;
}

}  // namespace

Result<memory::GuestRam> restore_ram(RestorePlan& plan, Job& job) {
  if (plan.request.memory_mode == MemoryMode::Copy) return copy_ram(plan, job);
  if (plan.request.verify == api::RestoreRequest::Verify::Full) VMMD_TRY(verify_all(plan.snapshot, job));
  // What is compared behind the VM's back had better be readable now.
  if (plan.request.verify == api::RestoreRequest::Verify::Lazy) VMMD_TRY(load_memory_digests(plan.snapshot));
  VMMD_ASSIGN(UniqueFd file, duplicate(plan.snapshot.memory));
  if (plan.request.memory_mode == MemoryMode::Shared) {
    return memory::GuestRam::live_file(std::move(file), plan.layout, plan.config.memory);
  }
  return memory::GuestRam::copy_on_write(std::move(file), plan.layout, plan.config.memory);
}

Status restore_machine(RestorePlan& plan, vm::Machine& machine, std::vector<std::string>& fresh) {
  const std::vector<devices::StateUnit*> units = machine.units();
  VMMD_TRY(compare_units(plan.snapshot.state, units, fresh));
  if (plan.request.cpu_check == api::RestoreRequest::CpuCheck::Strict) {
    VMMD_TRY(machine.match_tsc_frequency(static_cast<std::uint32_t>(plan.snapshot.manifest.cpu().tsc_khz())));
  }
  // From here on memory.bin may change: say so in the manifest first, durably.
  if (plan.request.memory_mode == MemoryMode::Shared) {
    VMMD_TRY(mark_consumed(plan.snapshot, fmt::format("vmmd {}, pid {}", kVersion, ::getpid())));
  }
  VMMD_TRY(restore_units(plan.snapshot.state, units));
  if (plan.request.identity == api::RestoreRequest::Identity::New) {
    devices::VmGenId::Id id{};
    if (::getrandom(id.data(), id.size(), 0) != static_cast<ssize_t>(id.size())) {
      return fail_errno(ErrorCode::Internal, errno, "cannot draw a VM generation id");
    }
    VMMD_TRY(machine.chipset().generation_id().set_id(id));
  }
  machine.time().finish_restore(plan.request.clock == api::RestoreRequest::ClockMode::Realtime);
  return {};
}

}  // namespace vmmd::snapshot
