#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

namespace vmmd::devices {

/// A one-shot timer. arm() replaces an earlier deadline. The callback runs on the clock's own thread (the
/// device thread), never inside arm() or cancel(); it may still run once after cancel() returned on another
/// thread, so it re-checks its device's state under the device's lock. The destructor waits for a running
/// callback: do not destroy a timer while holding a lock that its callback takes.
class Timer {
 public:
  virtual ~Timer() = default;
  /// `deadline_ns` on Clock::monotonic_ns(); a deadline in the past fires as soon as possible.
  virtual void arm(std::uint64_t deadline_ns) = 0;
  virtual void cancel() = 0;
};

/// Time as devices see it, injected so that tests own it. Both readings are in nanoseconds.
///
/// monotonic_ns() is *guest* time: it stands still while the VM is paused and continues across snapshot and
/// restore where it left off, so devices save deadlines as they are. realtime_ns() is wall-clock time since
/// 1970 (UTC): the host's, but for what restores with clock=continue left out.
class Clock {
 public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual std::uint64_t monotonic_ns() const = 0;
  [[nodiscard]] virtual std::int64_t realtime_ns() const = 0;
  [[nodiscard]] virtual std::unique_ptr<Timer> make_timer(std::function<void()> callback) = 0;
};

}  // namespace vmmd::devices
