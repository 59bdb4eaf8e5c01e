#include "daemon/vm/time_unit.h"

#include <time.h>

#include <optional>

#include "daemon/x86/msr.h"
#include "proto/state.pb.h"

namespace vmmd::vm {

namespace {

constexpr std::string_view kUnitName = "vm";

std::uint64_t wall_clock_ns() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

// A deadline was armed against the old TSC: written again it is armed against the new one.
Status rearm_deadline(const kvm::VcpuFd& vcpu) {
  const auto deadline = vcpu.get_msr(x86::kMsrTscDeadline);
  if (!deadline || *deadline == 0) return {};
  std::vector<std::uint32_t> refused;
  const kvm_msr_entry entry = {x86::kMsrTscDeadline, 0, *deadline};
  return vcpu.set_msrs({&entry, 1}, refused);
}

// 146 years: as a time it is absurd, and sums of two such do not wrap.
constexpr std::uint64_t kMostNs = std::uint64_t{1} << 62;

std::uint64_t to_ticks(std::uint64_t ns, std::uint32_t khz) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>(static_cast<Wide>(ns) * khz / 1'000'000);
}

}  // namespace

Result<GuestTime> unpack_guest_time(const devices::UnitState& unit) {
  state::VirtualMachine message;
  VMMD_TRY(devices::unpack_state(unit, kUnitName, 1, message));
  for (const std::uint64_t ns :
       {message.kvmclock_ns(), message.realtime_ns(), message.guest_monotonic_ns()}) {
    if (ns > kMostNs)
      return fail(ErrorCode::BadRequest, "unit {}: {} ns is no time of a guest", kUnitName, ns);
  }
  constexpr auto kFurthest = static_cast<std::int64_t>(kMostNs / 2);
  if (message.wall_offset_ns() < -kFurthest || message.wall_offset_ns() > kFurthest) {
    return fail(ErrorCode::BadRequest, "unit {}: a wall clock {} ns off the host's is none of a guest",
                kUnitName, message.wall_offset_ns());
  }
  return GuestTime{message.kvmclock_ns(), message.realtime_ns(), message.guest_monotonic_ns(),
                   message.wall_offset_ns()};
}

TimeUnit::TimeUnit(const kvm::VmFd& vm, loop::VmClock& clock, const std::vector<std::unique_ptr<Vcpu>>& vcpus)
    : vm_(vm), clock_(clock), vcpus_(vcpus) {}

Status TimeUnit::stop() {
  clock_.freeze();
  VMMD_ASSIGN(const kvm_clock_data clock, vm_.get_clock());
  state_ = {clock.clock, wall_clock_ns(), clock_.monotonic_ns(), clock_.wall_offset_ns()};
  for (const auto& vcpu : vcpus_) VMMD_TRY(vcpu->stop_tsc());
  stopped_ = true;
  return {};
}

Status TimeUnit::start() {
  if (stopped_) {
    const std::uint64_t skip_ns = catch_up_ ? away_ns() : 0;
    kvm_clock_data clock = {};
    clock.clock = state_.kvmclock_ns + skip_ns;
    VMMD_TRY(vm_.set_clock(clock));
    VMMD_TRY(shift_tscs(skip_ns));
    clock_.set_monotonic_ns(state_.guest_monotonic_ns + skip_ns);
    if (restored_) set_wall_clock();
    excuse_vcpus();
    stopped_ = restored_ = catch_up_ = false;
  }
  clock_.thaw();
  return {};
}

// EINVAL: this guest has no kvmclock, and needs no telling.
void TimeUnit::excuse_vcpus() const {
  for (const auto& vcpu : vcpus_) {
    static_cast<void>(kvm::retrying_ioctl(vcpu->fd().fd(), KVM_KVMCLOCK_CTRL, nullptr));
  }
}

// KVM's TSCs ran on while the VM was stopped: takes that back, and adds what is to be skipped. All vCPUs move
// by the same number of ticks, so that they stay in step. Without the attribute (KVM before 5.16) they run
// on.
Status TimeUnit::shift_tscs(std::uint64_t skip_ns) {
  const kvm::VcpuFd& first = vcpus_.front()->fd();
  VMMD_ASSIGN(const std::uint64_t now, first.get_msr(x86::kMsrTsc));
  const std::uint64_t forward = skip_ns == 0 ? 0 : to_ticks(skip_ns, first.tsc_khz());
  const std::uint64_t stopped_at = vcpus_.front()->stopped_tsc().value_or(now);
  const std::uint64_t change = stopped_at + forward - now;  // modulo 2^64, as the offset itself
  for (const auto& vcpu : vcpus_) {
    VMMD_ASSIGN(const std::optional<std::uint64_t> offset, vcpu->fd().get_tsc_offset());
    if (!offset) return {};
    VMMD_TRY(vcpu->fd().set_tsc_offset(*offset + change));
    VMMD_TRY(rearm_deadline(vcpu->fd()));
  }
  return {};
}

// By the host's wall clock, since time stopped.
std::uint64_t TimeUnit::away_ns() const {
  const std::uint64_t now = wall_clock_ns();
  return state_.realtime_ns != 0 && now > state_.realtime_ns ? now - state_.realtime_ns : 0;
}

void TimeUnit::set_wall_clock() {
  clock_.set_wall_offset_ns(state_.wall_offset_ns - (catch_up_ ? 0 : static_cast<std::int64_t>(away_ns())));
}

void TimeUnit::begin_restore(bool catch_up_with_wall_clock) {
  catch_up_ = catch_up_with_wall_clock;
}

std::string_view TimeUnit::unit_name() const {
  return kUnitName;
}

Result<devices::UnitState> TimeUnit::save() const {
  if (!stopped_) return fail(ErrorCode::WrongState, "unit vm: time is running");
  state::VirtualMachine message;
  message.set_kvmclock_ns(state_.kvmclock_ns);
  message.set_realtime_ns(state_.realtime_ns);
  message.set_guest_monotonic_ns(state_.guest_monotonic_ns);
  message.set_wall_offset_ns(state_.wall_offset_ns);
  return devices::pack_state(message);
}

Status TimeUnit::restore(const devices::UnitState& unit) {
  VMMD_ASSIGN(state_, unpack_guest_time(unit));
  stopped_ = restored_ = true;
  set_wall_clock();
  clock_.set_monotonic_ns(state_.guest_monotonic_ns);
  return {};
}

}  // namespace vmmd::vm
