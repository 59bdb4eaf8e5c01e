#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/kvm/vm_fd.h"
#include "daemon/loop/vm_clock.h"
#include "daemon/vm/vcpu.h"
#include "devices/state_unit.h"

namespace vmmd::vm {

/// Where a guest's time stands while it is stopped.
struct GuestTime {
  std::uint64_t kvmclock_ns = 0;
  std::uint64_t realtime_ns = 0;  // host's wall clock when time stopped; 0 = unknown
  std::uint64_t guest_monotonic_ns = 0;
  std::int64_t wall_offset_ns = 0;  // see VmClock
};

/// What the unit `vm` of a snapshot says, checked: times that may be added to each other.
Result<GuestTime> unpack_guest_time(const devices::UnitState& unit);

/// The guest's time, stopped and started as a whole: kvmclock, the TSCs and the devices' clock.
///
/// While the VM is paused all three stand still: at resume each goes on from the value at which it stopped,
/// so that a guest's monotonic time does not jump whichever of them it uses. After a restore with `realtime`
/// all three are moved forward by the time that passed on the host's wall clock since the snapshot, so that
/// the guest's wall clock is right.
class TimeUnit final : public devices::StateUnit {
 public:
  TimeUnit(const kvm::VmFd& vm, loop::VmClock& clock, const std::vector<std::unique_ptr<Vcpu>>& vcpus);

  /// vCPUs are parked: notes where time stands.
  Status stop();
  /// vCPUs are still parked: time goes on from there.
  Status start();
  /// Tells the guest's watchdogs that its vCPUs did not run for a while.
  void excuse_vcpus() const;

  /// Before restore() of any unit. With `catch_up_with_wall_clock` the next start() lets the time pass that
  /// has passed on the host's wall clock since the snapshot; otherwise the guest's wall clock, its RTC
  /// included, stays behind by that.
  void begin_restore(bool catch_up_with_wall_clock);

  [[nodiscard]] std::string_view unit_name() const override;
  [[nodiscard]] Result<devices::UnitState> save() const override;
  /// Before the devices' restore(): they arm timers against the clock that this sets.
  Status restore(const devices::UnitState& state) override;
  void reset() override {}

 private:
  [[nodiscard]] std::uint64_t away_ns() const;
  void set_wall_clock();
  Status shift_tscs(std::uint64_t skip_ns);

  const kvm::VmFd& vm_;
  loop::VmClock& clock_;
  const std::vector<std::unique_ptr<Vcpu>>& vcpus_;
  GuestTime state_;
  bool stopped_ = false;   // state_ is from a stop() or restore(), not yet used by start()
  bool restored_ = false;  // by restore()
  bool catch_up_ = false;  // the restored one shall
};

}  // namespace vmmd::vm
