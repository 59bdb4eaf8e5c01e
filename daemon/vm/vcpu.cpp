#include "daemon/vm/vcpu.h"

#include <signal.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "base/inherited_name.h"
#include "base/signals.h"
#include "base/thread_affinity.h"
#include "daemon/kvm/vcpu_check.h"
#include "daemon/kvm/vcpu_state.h"
#include "daemon/snapshot/cpu/cpuid_messages.h"
#include "daemon/vm/early_nmi.h"
#include "daemon/vm/run_nothing.h"
#include "daemon/x86/msr.h"

namespace vmmd::vm {

namespace {

// Realtime signals are queued, so a kick never merges with somebody else's signal.
int kick_signal() {
  return SIGRTMIN;
}

void install_kick_handler() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action = {};
    action.sa_handler = [](int) {};  // being interrupted is all that is wanted; no SA_RESTART
    sigaction(kick_signal(), &action, nullptr);
  });
}

bool is_bus_width(unsigned length) {
  return length == 1 || length == 2 || length == 4 || length == 8;
}

// One access of a vCPU, in guest byte order (little endian, as the host's).
void access(const devices::Bus& bus, std::uint64_t address, std::uint8_t* data, unsigned width, bool write) {
  std::uint64_t value = 0;
  if (write) {
    std::memcpy(&value, data, width);
    bus.write(address, width, value);
  } else {
    value = bus.read(address, width);
    std::memcpy(data, &value, width);
  }
}

}  // namespace

Vcpu::Vcpu(unsigned index, kvm::VcpuFd fd, const Shared& shared)
    : index_(index), name_(fmt::format("vcpu{}", index)), fd_(std::move(fd)), shared_(shared) {}

Vcpu::~Vcpu() {
  if (ext_int_ != nullptr) ext_int_->connect(nullptr);
  if (!thread_.joinable()) return;
  stop();
  thread_.join();
}

void Vcpu::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    wish_ = Wish::Stop;
    set_immediate_exit(true);
    if (!parked_) kick();
  }
  changed_.notify_all();
}

Status Vcpu::inject_nmi() const {
  VMMD_ASSIGN(const std::uint32_t state, fd_.mp_state());
  if (kvm::waits_for_start(state)) return {};
  return fd_.call(KVM_NMI, nullptr, "KVM_NMI");
}

Status Vcpu::start(const std::vector<unsigned>& host_cpus) {
  // There already if another vCPU's thread could not be started the last time.
  if (!thread_.joinable()) VMMD_TRY(start_thread());
  return bind_thread(thread_.native_handle(), host_cpus, name_);
}

Status Vcpu::start_thread() {
  install_kick_handler();
  // The new thread inherits a mask that blocks everything but the kick: signals are the API thread's
  // business.
  sigset_t mask = all_but_faults();
  sigset_t before;
  sigdelset(&mask, kick_signal());
  pthread_sigmask(SIG_SETMASK, &mask, &before);
  Status status;
  try {
    const InheritedName name(name_);
    thread_ = std::thread([this] { thread_main(); });
  } catch (const std::system_error& error) {
    status =
        fail_errno(ErrorCode::Internal, error.code().value(), "cannot start the thread of {}", unit_name());
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return status;
}

Status Vcpu::set_cpuid(std::vector<kvm_cpuid_entry2> entries) {
  VMMD_TRY(fd_.set_cpuid(entries));
  cpuid_ = std::move(entries);
  return {};
}

void Vcpu::set_immediate_exit(bool on) {
  std::atomic_ref<std::uint8_t>(fd_.run_page().immediate_exit).store(on ? 1 : 0, std::memory_order_seq_cst);
}

void Vcpu::kick() {
  pthread_kill(thread_.native_handle(), kick_signal());
}

void Vcpu::connect(ExtInt& ext_int) {
  ext_int_ = &ext_int;
  ext_int.connect(this);
}

void Vcpu::interrupt() {
  const std::lock_guard lock(mutex_);
  // Parked or in dispatch() on its own thread, it asks before it enters KVM_RUN again.
  if (parked_ || pthread_equal(pthread_self(), thread_.native_handle()) != 0) return;
  set_immediate_exit(true);
  kick();
}

std::optional<VcpuStop> Vcpu::take_external_interrupt() {
  if (ext_int_ == nullptr) return std::nullopt;
  const Status status = ext_int_->deliver(fd_);
  if (status) return std::nullopt;
  return VcpuStop{index_, VcpuStop::Reason::RunFailed, status.error().to_string()};
}

void Vcpu::park() {
  const std::lock_guard lock(mutex_);
  if (wish_ != Wish::Run) return;
  wish_ = Wish::Park;
  set_immediate_exit(true);
  if (!parked_ && thread_.joinable()) kick();
}

void Vcpu::wait_parked() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return parked_; });
}

void Vcpu::unpark() {
  {
    const std::lock_guard lock(mutex_);
    if (wish_ != Wish::Park || stopped_) return;
    wish_ = Wish::Run;
    set_immediate_exit(false);
    // Counts as running from here on, so that a park() right behind waits for the thread to have noticed.
    parked_ = !thread_.joinable();
  }
  changed_.notify_all();
}

void Vcpu::thread_main() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      // Said again after every wake-up: an unpark() and a park() may both have come while this thread slept,
      // and that park() waits for an answer too.
      while (wish_ == Wish::Park || (wish_ == Wish::Run && stopped_)) {
        parked_ = true;
        changed_.notify_all();
        changed_.wait(lock);
      }
      if (wish_ == Wish::Stop) return;
      parked_ = false;
    }
    run_until_kicked();
  }
}

// Returns after a kick or for good. The wish is looked at only after EINTR: that is when KVM has completed
// the exit before, so that nothing is half done when the thread parks.
void Vcpu::run_until_kicked() {
  // KVM has yet to say whether this vCPU takes interrupts: it knows after a KVM_RUN, and one that finds the
  // guest halted does not come back by itself.
  if (ext_int_ != nullptr) set_immediate_exit(true);
  unsigned woken_in_vain = 0;
  while (true) {
    std::optional<VcpuStop> stop = take_external_interrupt();
    const int error = stop ? 0 : fd_.run();
    if (stop) {
      // as below
    } else if (error == 0) {
      woken_in_vain = 0;
      exits_.fetch_add(1, std::memory_order_relaxed);
      stop = dispatch();
      // The VM thread has yet to hear of it, but on hardware no instruction follows a reset.
      if (!stop && shared_.power_asked.load(std::memory_order_relaxed)) {
        const std::lock_guard lock(mutex_);
        stopped_ = true;
        return;
      }
    } else if (error == EINTR || error == EAGAIN) {
      if (error == EAGAIN) {
        stop = after_waking(woken_in_vain);
      } else {
        woken_in_vain = 0;
      }
      bool parks = false;
      {
        const std::lock_guard lock(mutex_);
        parks = !stop && wish_ != Wish::Run;
        set_immediate_exit(false);  // if nobody wants it parked, it was an interrupt's kick
      }
      if (parks) {
        stop = settle();
        if (!stop) return;
      }
    } else {
      stop = describe_failure(index_, fd_, error);
    }
    if (stop) {
      {
        const std::lock_guard lock(mutex_);
        stopped_ = true;
      }
      shared_.listener.on_vcpu_stopped(std::move(*stop));
      return;
    }
  }
}

// What the guest's last instruction asked for, KVM may keep to itself until the next KVM_RUN, and none of its
// state shows it: the EOI of a level interrupt, which the IOAPIC waits for, is an exit that comes then.
std::optional<VcpuStop> Vcpu::settle() {
  constexpr unsigned kMostExits = 16;  // one is known
  for (unsigned i = 0; i < kMostExits; ++i) {
    const auto error = run_nothing(fd_, kick_signal());
    if (!error) return VcpuStop{index_, VcpuStop::Reason::RunFailed, error.error().to_string()};
    if (*error == EINTR || *error == EAGAIN) return std::nullopt;
    if (*error != 0) return describe_failure(index_, fd_, *error);
    exits_.fetch_add(1, std::memory_order_relaxed);
    if (auto stop = dispatch()) return stop;
  }
  return VcpuStop{index_, VcpuStop::Reason::RunFailed,
                  fmt::format("vCPU {}: KVM comes back from a guest that does not run", index_)};
}

// EAGAIN: something has woken a vCPU that waits for the guest to start it; INIT and STARTUP do, and an NMI.
std::optional<VcpuStop> Vcpu::after_waking(unsigned& in_vain) const {
  constexpr unsigned kMostInVain = 100;  // in a row, and nothing known does it twice; a hostile snapshot may
  const auto forgot = forget_early_nmi(fd_, kick_signal());
  if (!forgot) return VcpuStop{index_, VcpuStop::Reason::RunFailed, forgot.error().to_string()};
  if (*forgot) {
    in_vain = 0;
    return std::nullopt;
  }
  if (++in_vain < kMostInVain) return std::nullopt;
  return VcpuStop{
      index_, VcpuStop::Reason::RunFailed,
      fmt::format("vCPU {}: KVM neither runs it nor lets it wait: something keeps waking it that it "
                  "cannot take before the guest has started it; its saved state may be damaged",
                  index_)};
}

bool Vcpu::is_memory(std::uint64_t address) const {
  return std::any_of(shared_.memory.begin(), shared_.memory.end(), [address](const auto& region) {
    return address >= region.start.value && address - region.start.value < region.size;
  });
}

std::optional<VcpuStop> Vcpu::dispatch() {
  kvm_run& run = fd_.run_page();
  switch (run.exit_reason) {
    case KVM_EXIT_IO: {
      auto* data = reinterpret_cast<std::uint8_t*>(&run) + run.io.data_offset;
      for (std::uint32_t i = 0; i < run.io.count; ++i, data += run.io.size) {
        access(shared_.ports, run.io.port, data, run.io.size, run.io.direction == KVM_EXIT_IO_OUT);
      }
      return std::nullopt;
    }
    case KVM_EXIT_MMIO: {
      // An instruction that KVM emulates, as all of a kernel's where there is no VT-x or SVM, finds no page
      // where there is memory: an access that went nowhere would lose data without a word.
      if (is_memory(run.mmio.phys_addr)) return describe_failure(index_, fd_, EFAULT);
      const unsigned length = run.mmio.len;
      const unsigned step = is_bus_width(length) ? length : 1;  // KVM may split an access that crosses a page
      for (unsigned i = 0; i < length; i += step) {
        access(shared_.mmio, run.mmio.phys_addr + i, run.mmio.data + i, step, run.mmio.is_write != 0);
      }
      return std::nullopt;
    }
    case KVM_EXIT_IOAPIC_EOI:
      shared_.ioapic.end_of_interrupt(run.eoi.vector);
      return std::nullopt;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return std::nullopt;
    default:
      return describe_stop(index_, fd_);
  }
}

Status Vcpu::stop_tsc() {
  VMMD_ASSIGN(stopped_tsc_, fd_.get_msr(x86::kMsrTsc));
  return {};
}

Result<devices::UnitState> Vcpu::save() const {
  VMMD_ASSIGN(const state::Vcpu state, kvm::save_vcpu(fd_, cpuid_, shared_.saved_msrs, stopped_tsc_));
  return devices::pack_state(state);
}

Status Vcpu::restore(const devices::UnitState& unit) {
  state::Vcpu state;
  VMMD_TRY(devices::unpack_state(unit, name_, 1, state));
  if (auto checked = kvm::check_vcpu(state, shared_.kvm.xsave_size()); !checked) {
    return wrap(std::move(checked).error(), "unit {}", name_);
  }
  if (auto set = set_cpuid(snapshot::from_messages(state.cpuid())); !set) {
    return wrap(std::move(set).error(), "unit {}: this host's KVM refuses the saved CPUID", name_);
  }
  stopped_tsc_.reset();
  for (const state::Msr& msr : state.msrs()) {
    if (msr.index() == x86::kMsrTsc) stopped_tsc_ = msr.value();
  }
  std::vector<std::uint32_t> refused;
  VMMD_TRY(kvm::restore_vcpu(fd_, state, refused));
  for (const std::uint32_t index : refused) {
    if (x86::is_optional_msr(index)) continue;
    return fail(ErrorCode::BadRequest, "unit {}: this host's KVM refuses the saved value of MSR {:#x}", name_,
                index);
  }
  return {};
}

std::map<std::string, std::int64_t> Vcpu::counters() const {
  return {{"exits", static_cast<std::int64_t>(exits_.load(std::memory_order_relaxed))}};
}

}  // namespace vmmd::vm
