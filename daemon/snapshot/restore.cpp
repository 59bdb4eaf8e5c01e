#include "daemon/snapshot/restore.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "api/options.h"
#include "api/overrides.h"
#include "base/random.h"
#include "base/version.h"
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

class KvmFacts final : public HostFacts {
 public:
  explicit KvmFacts(const kvm::Kvm& kvm) : kvm_(kvm) {}
  [[nodiscard]] Result<std::vector<kvm_cpuid_entry2>> cpuid() const override {
    return kvm_.supported_cpuid();
  }
  [[nodiscard]] Result<HostTsc> tsc() const override { return host_tsc(kvm_.fd()); }

 private:
  const kvm::Kvm& kvm_;
};

}  // namespace

Result<RestorePlan> plan_restore(const api::RestoreRequest& request, const kvm::Kvm& kvm) {
  VMMD_ASSIGN(const auto source, api::path_from_file_url(request.source_url));
  const std::string headline = fmt::format("cannot restore {}", source.native());
  Problems problems;
  std::vector<std::string> notes;
  auto found = examine(source, request, KvmFacts(kvm), MachineChecks::WithOthers, problems, notes);
  VMMD_TRY(problems.to_status(ErrorCode::BadRequest, headline));
  if (!found) return fail(ErrorCode::BadRequest, "{}", headline);
  RestorePlan plan{std::move(found->snapshot), std::move(found->config), std::move(found->layout), request};
  VMMD_TRY(lock_memory(plan.snapshot, lock_kind(request.memory_mode)));
  return plan;
}

namespace {

Result<UniqueFd> duplicate(const UniqueFd& fd) {
  UniqueFd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));  // shares the lock on memory.bin
  if (!copy) return fail_errno(ErrorCode::Internal, errno, "cannot duplicate memory.bin's descriptor");
  return copy;
}

Status verify_layers(const OpenSnapshot& snapshot, Job& job) {
  const auto layers = damaged_layers(snapshot, [&job] { return job.cancelled(); });
  VMMD_TRY(job.check());
  if (layers.empty()) return {};
  return fail(ErrorCode::BadRequest, "{} is damaged: its digest differs", fmt::join(layers, ", "));
}

Status verify_ram(const OpenSnapshot& snapshot, Job& job) {
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

Result<memory::GuestRam> map_ram(const RestorePlan& plan, Job& job) {
  using enum api::RestoreRequest::Verify;
  const bool copies = plan.request.memory_mode == MemoryMode::Copy;
  // Lazy: behind the VM's back, unless nothing else is done there.
  if (plan.request.verify == Full || (plan.request.verify == Lazy && copies))
    VMMD_TRY(verify_layers(plan.snapshot, job));
  if (copies) return copy_ram(plan, job);
  if (plan.request.verify == Full) VMMD_TRY(verify_ram(plan.snapshot, job));
  // What is compared behind the VM's back had better be readable now.
  if (plan.request.verify == Lazy) VMMD_TRY(load_memory_digests(plan.snapshot));
  VMMD_ASSIGN(UniqueFd file, duplicate(plan.snapshot.memory));
  if (plan.request.memory_mode == MemoryMode::Shared) {
    return memory::GuestRam::live_file(std::move(file), plan.layout, plan.config.memory);
  }
  return memory::GuestRam::copy_on_write(std::move(file), plan.layout, plan.config.memory);
}

}  // namespace

Status prefault(const memory::GuestRam& ram, Job& job) {
  job.enter_phase("prefault");
  job.set_progress(0, ram.size());
  Status status = ram.prefault([&job](std::uint64_t bytes) {
    job.add_done(bytes);
    return !job.cancelled();
  });
  VMMD_TRY(job.check());
  return status;
}

Result<memory::GuestRam> restore_ram(RestorePlan& plan, Job& job) {
  VMMD_ASSIGN(memory::GuestRam ram, map_ram(plan, job));
  if (plan.request.prefault || plan.config.memory.prefault) VMMD_TRY(prefault(ram, job));
  return ram;
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
  machine.time().begin_restore(plan.request.clock == api::RestoreRequest::ClockMode::Realtime);
  VMMD_TRY(restore_units(plan.snapshot.state, units));
  if (plan.request.identity == api::RestoreRequest::Identity::New) {
    devices::VmGenId::Id id{};
    VMMD_TRY(fill_random(std::as_writable_bytes(std::span(id)), "cannot draw a VM generation id"));
    VMMD_TRY(machine.chipset().generation_id().set_id(id));
  }
  return {};
}

}  // namespace vmmd::snapshot
