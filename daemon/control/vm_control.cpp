#include "daemon/control/vm_control.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <future>
#include <mutex>
#include <utility>

#include <fmt/format.h>

#include "api/findings.h"
#include "api/net_fds.h"
#include "api/options.h"
#include "daemon/control/announce.h"
#include "daemon/control/left_behind.h"
#include "daemon/log.h"
#include "daemon/memory/layout.h"
#include "daemon/memory/memory_file.h"
#include "daemon/snapshot/capture.h"
#include "daemon/snapshot/format/posix.h"
#include "daemon/snapshot/restore.h"
#include "daemon/vm/device_table.h"
#include "daemon/vm/net_end.h"
#include "daemon/vm/pmem_end.h"

namespace vmmd::control {

using api::VmState;
using vm::Action;

namespace {

constexpr std::size_t kMostDamagedRanges = 64;  // in vm.info and in the event

}  // namespace

/// What the guest asks for, from vCPU threads to the VM thread; and what fails on the host, to whoever
/// listens. Silent once it is abandoned, as the control may be gone by then.
class VmControl::GuestSignals final : public vm::MachineListener {
 public:
  GuestSignals(VmControl& control, std::uint64_t generation) : control_(&control), generation_(generation) {}

  void abandon() {
    const std::lock_guard lock(mutex_);
    control_ = nullptr;
  }

  void request_reset() override { post(&VmControl::on_guest_reset); }
  void request_shutdown() override { post(&VmControl::on_guest_shutdown); }
  void memory_lost() { post(&VmControl::on_memory_lost); }
  void on_vcpu_stopped(vm::VcpuStop stop) override { post(&VmControl::on_vcpu_stopped, std::move(stop)); }
  void backend_failed(std::string_view unit, std::string_view what) override {
    log_warning("{}: {}", unit, what);
    publish("device", "backend-failed", {{"unit", std::string(unit)}, {"error", std::string(what)}});
  }
  void disk_full(std::string_view unit, std::string_view what) override {
    post(&VmControl::on_disk_full, std::string(unit), std::string(what));
  }
  void needs_reset(std::string_view unit, std::string_view reason, std::uint64_t times) override {
    log_warning("{}: the guest must reset the device: {} (time {})", unit, reason, times);
    publish("device", "needs-reset",
            {{"unit", std::string(unit)}, {"reason", std::string(reason)}, {"times", std::to_string(times)}});
  }
  void watchdog_expired(std::string_view unit, std::string_view what) override {
    log_warning("{}: {}", unit, what);
    publish("vm", "watchdog", {{"unit", std::string(unit)}, {"reason", std::string(what)}});
  }

 private:
  template <class... Parameters, class... Arguments>
  void post(void (VmControl::*member)(std::uint64_t, Parameters...), Arguments... arguments) {
    const std::lock_guard lock(mutex_);
    if (control_ == nullptr) return;
    control_->queue_.post([control = control_, member, generation = generation_,
                           ... kept = std::move(arguments)] { (control->*member)(generation, kept...); });
  }
  void publish(std::string_view source, std::string_view event, const api::EventBus::Properties& properties) {
    const std::lock_guard lock(mutex_);
    if (control_ != nullptr) control_->events_.publish(source, event, properties);
  }

  std::mutex mutex_;
  VmControl* control_;  // nullptr: abandoned
  const std::uint64_t generation_;
};

VmControl::VmControl(api::EventBus& events, StatusBoard& board, CommandQueue& queue, Options options)
    : events_(events),
      board_(board),
      queue_(queue),
      options_(std::move(options)),
      background_(events, board) {}

VmControl::~VmControl() = default;

Result<std::shared_ptr<const kvm::Kvm>> VmControl::kvm() {
  if (!kvm_) {
    VMMD_ASSIGN(kvm_, kvm::Kvm::open());
  }
  return kvm_;
}

void VmControl::publish(std::optional<VmState> state) {
  state_ = state;
  if (!state) {
    board_.publish(nullptr);
    return;
  }
  auto info = std::make_shared<api::VmInfo>();
  info->config = config_;
  info->state = *state;
  info->memory_actual_size = config_.memory.size;
  info->memory_check = memory_check_;
  if (machine_ && *state == VmState::Paused) info->full_disks = machine_->full_disks();
  if (host_) host_->describe(info->config);
  board_.publish(std::move(info));
}

// Validated by the caller; see Service::create().
Status VmControl::create(api::VmConfig config, api::PassedFds fds) {
  VMMD_TRY(vm::check_action(Action::Create, state_));
  if (auto layout = memory::ram_layout(config.memory.size, config.cpus.max_phys_bits); !layout)
    return api::blame("/memory/size", std::move(layout).error());
  VMMD_TRY(vm::Chipset::check(config));
  VMMD_TRY(vm::allot_places(config));
  VMMD_TRY(vm::give_macs(config));
  VMMD_TRY(vm::give_pmem_sizes(config));
  VMMD_ASSIGN(auto taps, api::share_out(api::fd_places(config), std::move(fds)));
  VMMD_ASSIGN(host_, vm::HostSide::open(config, vm::HostSide::Life::New, std::move(taps)));
  api::forget_fd_numbers(config);
  config_ = std::move(config);
  publish(VmState::Created);
  announce(events_, "vm", "created");
  return {};
}

Status VmControl::boot(snapshot::Job& job) {
  VMMD_TRY(vm::check_action(Action::Boot, state_));
  VMMD_TRY(job.check());
  announce(events_, "vm", "booting");
  VMMD_TRY(start_machine(job));
  publish(VmState::Running);
  announce(events_, "vm", "booted");
  return {};
}

// A new machine from config_, its kernel loaded, running. On error there is none.
Status VmControl::start_machine(snapshot::Job& job) {
  VMMD_ASSIGN(const auto kvm, this->kvm());
  // Gone if a device of the machine before did not come to an end.
  if (!host_) {
    VMMD_ASSIGN(host_, vm::HostSide::open(config_, vm::HostSide::Life::Restored));
  }
  VMMD_ASSIGN(const auto layout, memory::ram_layout(config_.memory.size, config_.cpus.max_phys_bits));
  VMMD_ASSIGN(memory::GuestRam ram, memory::GuestRam::allocate(config_.memory, layout));
  if (config_.memory.prefault) {
    report_progress(job);
    VMMD_TRY(snapshot::prefault(ram, job));
  }
  auto signals = std::make_unique<GuestSignals>(*this, ++generation_);
  VMMD_ASSIGN(auto machine, vm::Machine::create(kvm, config_, std::move(ram), *host_, *signals));
  VMMD_TRY(machine->boot(config_));
  VMMD_TRY(machine->ram().check_whole());
  VMMD_TRY(machine->resume());
  signals_ = std::move(signals);
  machine_ = std::move(machine);
  board_.set_machine(machine_.get());
  watch_memory();
  return {};
}

void VmControl::drop_machine() {
  end_memory_check();
  board_.set_machine(nullptr);
  ++generation_;
  if (machine_) {
    // RAM's file became a snapshot's memory.bin (mode link): it stays that, and the next RAM gets a new file.
    if (config_.memory.file && machine_->ram().file_given_up())
      memory::remove_spare_name(*config_.memory.file, machine_->ram().fd());
    if (auto stopped = machine_->stop(); !stopped) {
      log_error("the VM's memory stays allocated: {}", stopped.error().to_string());
      // What the device still writes to stays as it is until this process ends.
      signals_->abandon();
      leave_behind({std::move(host_), std::move(signals_), std::move(machine_), std::move(memory_watch_)});
    }
  }
  memory_watch_.reset();  // waits for the device thread, which no device holds up any more
  machine_.reset();
  signals_.reset();
}

void VmControl::forget_vm() {
  drop_machine();
  host_.reset();
  config_ = {};
  publish(std::nullopt);
}

Status VmControl::pause() {
  VMMD_TRY(vm::check_action(Action::Pause, state_));
  announce(events_, "vm", "pausing");
  VMMD_TRY(machine_->pause());
  publish(VmState::Paused);
  announce(events_, "vm", "paused");
  return {};
}

Status VmControl::resume() {
  VMMD_TRY(vm::check_action(Action::Resume, state_));
  announce(events_, "vm", "resuming");
  VMMD_TRY(machine_->resume());
  publish(VmState::Running);
  announce(events_, "vm", "resumed");
  return {};
}

Status VmControl::shutdown() {
  VMMD_TRY(vm::check_action(Action::Shutdown, state_));
  drop_machine();
  publish(VmState::Shutdown);
  announce(events_, "vm", "shutdown");
  return {};
}

Status VmControl::reboot(snapshot::Job& job) {
  VMMD_TRY(vm::check_action(Action::Reboot, state_));
  VMMD_TRY(job.check());
  announce(events_, "vm", "rebooting");
  drop_machine();
  if (auto started = start_machine(job); !started) {
    // The old machine is gone: say so, rather than pretend.
    publish(VmState::Shutdown);
    announce(events_, "vm", "shutdown");
    return wrap(std::move(started).error(), "the VM was shut down but could not be booted again");
  }
  publish(VmState::Running);
  announce(events_, "vm", "rebooted");
  return {};
}

Status VmControl::reboot_if_bootable(snapshot::Job& job) {
  VMMD_TRY(vm::check_action(Action::Reboot, state_));
  if (auto there = vm::Machine::check_boot_files(config_.payload); !there) {
    return wrap(std::move(there).error(),
                "the VM is left as it is: a reboot needs its kernel and initramfs, unlike a restore");
  }
  return reboot(job);
}

Status VmControl::remove() {
  VMMD_TRY(vm::check_action(Action::Delete, state_));
  if (!state_) return {};
  forget_vm();
  announce(events_, "vm", "deleted");
  return {};
}

Status VmControl::power_button() {
  VMMD_TRY(vm::check_action(Action::PowerButton, state_));
  machine_->power_button();
  announce(events_, "vm", "power-button");
  return {};
}

Status VmControl::nmi() {
  VMMD_TRY(vm::check_action(Action::Nmi, state_));
  VMMD_TRY(machine_->inject_nmi());
  announce(events_, "vm", "nmi");
  return {};
}

Result<api::SnapshotResult> VmControl::snapshot(const api::SnapshotRequest& request,
                                                std::shared_ptr<snapshot::Job> job) {
  VMMD_TRY(vm::check_action(request.pause ? Action::SnapshotWithPause : Action::Snapshot, state_));
  VMMD_TRY(job->check());
  const bool was_running = state_ == VmState::Running;
  if (was_running) {
    VMMD_TRY(write_back(request, *job));
    job->enter_phase("pause");
    VMMD_TRY(pause());
  }
  report_progress(*job);
  announce(events_, "vm", "snapshotting", {{"job", job->id()}, {"destination", request.destination_url}});
  auto result = snapshot::take_snapshot(*machine_, config_, request, *job, sync_);
  if (result) {
    announce(events_, "vm", "snapshotted",
             {{"job", job->id()}, {"id", result->snapshot_id}, {"mode", result->mode}});
  } else {
    announce(events_, "vm", "snapshot-failed", {{"job", job->id()}, {"error", result.error().to_string()}});
  }
  // A failure gives the state back that was found; success the one that was asked for.
  if (result ? request.resume : was_running) {
    if (auto resumed = resume(); !resumed) {
      return wrap(std::move(resumed).error(), "the VM stays paused after vm.snapshot");
    }
  }
  if (result && !result->memory_digests) record_digests(std::move(job), request.destination_url);
  return result;
}

// What is dirty in a memory file that is to be linked or cloned is written while the guest runs, so that it
// stands still only for what it dirties meanwhile.
Status VmControl::write_back(const api::SnapshotRequest& request, snapshot::Job& job) {
  const memory::GuestRam& ram = machine_->ram();
  if (request.mode == api::SnapshotRequest::Mode::Copy || ram.backing() != memory::Backing::File) return {};
  job.enter_phase("write-back");
  auto file = std::make_shared<UniqueFd>(::fcntl(ram.fd(), F_DUPFD_CLOEXEC, 0));
  if (!*file) return fail_errno(ErrorCode::Internal, errno, "cannot duplicate the memory file's descriptor");
  // An error told here is not told to the fsync of the snapshot, so it counts.
  const auto synced =
      sync_.run([file] { return snapshot::sync_file(file->get(), "the memory file"); }, job.stop_token());
  return synced ? *synced : job.check();
}

// Opened right away: whoever gets the answer may give the directory another name.
void VmControl::record_digests(std::shared_ptr<snapshot::Job> job, const std::string& destination_url) {
  auto path = api::path_from_file_url(destination_url);
  auto opened = path ? snapshot::open_snapshot(*path) : tl::make_unexpected(std::move(path).error());
  if (opened) return background_.record_digests(std::move(job), std::move(*opened));
  log_warning("no digests of memory for {}: {}", destination_url, opened.error().to_string());
  events_.publish("vm", "digests-not-recorded",
                  {{"job", job->id()}, {"path", destination_url}, {"error", opened.error().to_string()}});
}

void VmControl::report_progress(snapshot::Job& job) {
  job.set_listener([this](const api::JobStatus& status) {
    const double rate = status.seconds > 0 ? static_cast<double>(status.bytes_done) / status.seconds : 0;
    events_.publish("vm", "job-progress",
                    {{"job", status.id},
                     {"phase", status.phase},
                     {"bytes_done", std::to_string(status.bytes_done)},
                     {"bytes_total", std::to_string(status.bytes_total)},
                     {"bytes_per_second", std::to_string(static_cast<std::uint64_t>(rate))}});
  });
}

Status VmControl::restore(const api::RestoreRequest& request, api::PassedFds fds,
                          std::shared_ptr<snapshot::Job> job) {
  VMMD_TRY(vm::check_action(Action::Restore, state_));
  report_progress(*job);
  announce(events_, "vm", "restoring", {{"job", job->id()}, {"source", request.source_url}});
  auto loaded = load_snapshot(request, std::move(fds), *job);
  if (!loaded) {
    forget_vm();
    announce(events_, "vm", "restore-failed", {{"error", loaded.error().to_string()}});
    return tl::make_unexpected(std::move(loaded).error());
  }
  const bool checks_behind = request.verify == api::RestoreRequest::Verify::Lazy &&
                             request.memory_mode == api::RestoreRequest::MemoryMode::Cow;
  if (checks_behind) memory_check_.emplace();
  publish(VmState::Paused);
  announce(events_, "vm", "restored");
  if (request.resume) {
    if (auto resumed = resume(); !resumed) {
      // One command, one outcome: no paused VM that nobody asked for.
      forget_vm();
      announce(events_, "vm", "restore-failed", {{"error", resumed.error().to_string()}});
      return wrap(std::move(resumed).error(), "the VM was restored but could not be resumed");
    }
  }
  watch_memory();  // behind the guest's first instruction, which does not wait for it
  if (checks_behind) check_memory(std::move(job), std::move(*loaded));
  return {};
}

void VmControl::check_memory(std::shared_ptr<snapshot::Job> job, snapshot::OpenSnapshot snapshot) {
  memory_check_job_ = job;
  background_.verify(std::move(job), std::move(snapshot),
                     [this, generation = generation_](const Result<snapshot::VerifyReport>& report) {
                       queue_.post([this, generation, report] { on_memory_checked(generation, report); });
                     });
}

// Waits, so that nothing of the snapshot is open once the VM is gone.
void VmControl::end_memory_check() {
  memory_check_.reset();
  auto job = memory_check_job_.lock();
  if (!job) return;
  const std::string id = job->id();
  job.reset();
  std::promise<void> ended;
  if (board_.cancel_job(id, [&ended] { ended.set_value(); })) ended.get_future().wait();
}

void VmControl::on_memory_checked(std::uint64_t generation, const Result<snapshot::VerifyReport>& report) {
  if (generation != generation_ || !machine_ || !memory_check_) return;
  using State = api::MemoryCheck::State;
  if (!report) {
    memory_check_->state = State::Failed;
    publish(state_);
    log_error("the memory of the snapshot could not be verified: {}", report.error().to_string());
    events_.publish("vm", "restore-not-verified", {{"error", report.error().to_string()}});
    return;
  }
  if (report->damaged.empty() && report->damaged_layers.empty()) {
    memory_check_->state = State::Intact;
    publish(state_);
    announce(events_, "vm", "restore-verified", {{"bytes", std::to_string(report->bytes_total)}});
    return;
  }
  memory_check_->state = State::Damaged;
  std::string ranges;
  for (const snapshot::DamagedRange& range : report->damaged) {
    memory_check_->damaged_bytes += range.length;
    if (memory_check_->damaged.size() == kMostDamagedRanges) continue;
    memory_check_->damaged.push_back({range.guest_address, range.length});
    ranges += fmt::format("{}{:#x}+{:#x}", ranges.empty() ? "" : ", ", range.guest_address, range.length);
  }
  const std::string layers = fmt::format("{}", fmt::join(report->damaged_layers, ", "));
  log_error(
      "the snapshot is damaged, and the VM is paused: {} places of its memory, {} bytes, at guest addresses "
      "[{}]; layers of disks [{}]",
      report->damaged.size(), memory_check_->damaged_bytes, ranges, layers);
  // Before it does harm with what it believes to remember. Whoever knows better can resume it.
  Status paused;
  if (state_ == VmState::Running) paused = pause();
  if (!paused) log_error("vm.pause: {}", paused.error().to_string());
  publish(state_);
  events_.publish("vm", "restore-damaged",
                  {{"damaged_bytes", std::to_string(memory_check_->damaged_bytes)},
                   {"ranges", ranges},
                   {"layers", layers}});
}

Result<snapshot::OpenSnapshot> VmControl::load_snapshot(const api::RestoreRequest& request,
                                                        api::PassedFds fds, snapshot::Job& job) {
  VMMD_ASSIGN(auto taps, api::share_out(api::fd_places(request), std::move(fds)));
  VMMD_ASSIGN(const auto kvm, this->kvm());
  job.enter_phase("check");
  VMMD_ASSIGN(snapshot::RestorePlan plan, snapshot::plan_restore(request, *kvm));
  job.enter_phase("memory");
  VMMD_ASSIGN(memory::GuestRam ram, snapshot::restore_ram(plan, job));
  job.enter_phase("machine");
  VMMD_ASSIGN(auto layers, plan.snapshot.duplicate_layers());
  VMMD_ASSIGN(host_, vm::HostSide::restore(plan.config, std::move(layers), std::move(taps)));
  signals_ = std::make_unique<GuestSignals>(*this, ++generation_);
  VMMD_ASSIGN(machine_, vm::Machine::create(kvm, plan.config, std::move(ram), *host_, *signals_));
  std::vector<std::string> fresh;
  VMMD_TRY(snapshot::restore_machine(plan, *machine_, fresh));
  for (const std::string& unit : fresh) {
    log_warning("restore: the snapshot has no unit {}: it starts in its power-on state", unit);
    events_.publish("vm", "unit-not-in-snapshot", {{"unit", unit}});
  }
  config_ = std::move(plan.config);
  api::forget_fd_numbers(config_);
  board_.set_machine(machine_.get());
  return std::move(plan.snapshot);
}

void VmControl::on_guest_reset(std::uint64_t generation) {
  if (generation != generation_ || !machine_) return;
  announce(events_, "guest", "reset");
  const bool was_paused = state_ == VmState::Paused;  // between the guest's request and now
  Status status = reboot(*board_.start_job("reboot"));
  if (status && was_paused) status = pause();
  if (!status) log_error("reset by the guest: {}", status.error().to_string());
}

void VmControl::on_guest_shutdown(std::uint64_t generation) {
  if (generation != generation_ || !machine_) return;
  announce(events_, "guest", "shutdown");
  if (auto stopped = shutdown(); !stopped) log_error("shutdown: {}", stopped.error().to_string());
  if (!options_.no_shutdown) options_.request_exit(/*failed=*/false);
}

void VmControl::on_vcpu_stopped(std::uint64_t generation, const vm::VcpuStop& stop) {
  if (generation != generation_ || !machine_) return;
  if (stop.reason == vm::VcpuStop::Reason::Reset) return on_guest_reset(generation);
  if (stop.reason == vm::VcpuStop::Reason::Shutdown) return on_guest_shutdown(generation);
  crash({{"vcpu", std::to_string(stop.vcpu)}, {"reason", to_string(stop.reason)}}, stop.message);
}

void VmControl::watch_memory() {
  memory_watch_ = std::make_unique<MemoryWatch>(host_->loop(), machine_->ram().lost_fd(),
                                                [signals = signals_.get()] { signals->memory_lost(); });
}

// We touched what is not there, for the guest: it would go on with zeros.
void VmControl::on_memory_lost(std::uint64_t generation) {
  if (generation != generation_ || !machine_) return;
  const Status whole = machine_->ram().check_whole();
  if (!whole) crash({{"reason", "memory-lost"}}, whole.error().to_string());
}

void VmControl::crash(api::EventBus::Properties properties, const std::string& message) {
  log_error("{}", message);
  properties.emplace_back("message", message);
  events_.publish("guest", "crashed", properties);
  // A guest that cannot go on is stopped, not started over: the user shall see why. The daemon stays.
  if (auto stopped = shutdown(); !stopped) log_error("shutdown: {}", stopped.error().to_string());
  if (options_.exit_on_crash) options_.request_exit(/*failed=*/true);
}

}  // namespace vmmd::control
