#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "daemon/loop/device_loop.h"
#include "devices/clock.h"

namespace vmmd::loop {

/// Guest time: stands still while frozen. A new clock is frozen at 0.
///
/// Timers keep deadlines in guest time; none fires while frozen, and thaw() arms them again. All members are
/// thread-safe. Callbacks run on the loop's thread without any lock of the clock held.
class VmClock final : public devices::Clock {
 public:
  /// `loop` outlives the clock, the clock outlives its timers.
  explicit VmClock(DeviceLoop& loop);
  ~VmClock() override;
  VmClock(const VmClock&) = delete;
  VmClock& operator=(const VmClock&) = delete;

  [[nodiscard]] std::uint64_t monotonic_ns() const override;
  [[nodiscard]] std::int64_t realtime_ns() const override;
  [[nodiscard]] std::unique_ptr<devices::Timer> make_timer(std::function<void()> callback) override;

  /// Time stops. Waits for a running callback (unless called by it): afterwards none runs, so hold no
  /// device's lock.
  void freeze();
  /// Time goes on where it stopped.
  void thaw();
  [[nodiscard]] bool frozen() const;

  /// For restore, while frozen: the guest time to go on from.
  void set_monotonic_ns(std::uint64_t ns);
  /// What realtime_ns() adds to the host's wall clock.
  void set_wall_offset_ns(std::int64_t ns);
  [[nodiscard]] std::int64_t wall_offset_ns() const;

 private:
  class LoopTimer;
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

}  // namespace vmmd::loop
