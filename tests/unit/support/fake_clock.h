#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "devices/clock.h"

namespace vmmd::testing {

/// A clock that the test moves. Callbacks run inside advance() and run_due(), never inside arm(). For one
/// thread. The clock outlives its timers.
class FakeClock final : public devices::Clock {
 public:
  [[nodiscard]] std::uint64_t monotonic_ns() const override {
    pass();
    return monotonic_ns_;
  }
  [[nodiscard]] std::int64_t realtime_ns() const override {
    pass();
    return realtime_ns_;
  }
  [[nodiscard]] std::unique_ptr<devices::Timer> make_timer(std::function<void()> callback) override {
    return std::make_unique<FakeTimer>(*this, std::move(callback));
  }

  /// Moves both clocks. Callbacks due on the way run in order of their deadlines (then of arming), each at
  /// its own time, so that periodic devices that arm themselves again fire as often as they should.
  void advance(std::uint64_t ns) {
    const std::uint64_t end = monotonic_ns_ + ns;
    while (FakeTimer* due = next_due(end)) {
      if (due->deadline > monotonic_ns_) move_to(due->deadline);
      due->armed = false;
      due->callback();
    }
    move_to(end);
  }
  /// Runs what is due now.
  void run_due() { advance(0); }

  /// From now on so much time passes at each look, as on a host that runs us seldom.
  void pass_at_each_look(std::uint64_t ns) { per_look_ = ns; }

  void set_realtime_ns(std::int64_t ns) { realtime_ns_ = ns; }
  /// As restore does: guest time jumps, nothing fires before the next advance().
  void set_monotonic_ns(std::uint64_t ns) { monotonic_ns_ = ns; }

  [[nodiscard]] std::size_t armed_timers() const {
    return static_cast<std::size_t>(
        std::count_if(timers_.begin(), timers_.end(), [](const FakeTimer* t) { return t->armed; }));
  }
  /// The earliest deadline, or UINT64_MAX where nothing is armed.
  [[nodiscard]] std::uint64_t next_deadline() const {
    std::uint64_t earliest = std::numeric_limits<std::uint64_t>::max();
    for (const FakeTimer* timer : timers_) {
      if (timer->armed) earliest = std::min(earliest, timer->deadline);
    }
    return earliest;
  }

 private:
  struct FakeTimer final : devices::Timer {
    FakeTimer(FakeClock& owner, std::function<void()> f) : clock(owner), callback(std::move(f)) {
      clock.timers_.push_back(this);
    }
    ~FakeTimer() override { std::erase(clock.timers_, this); }
    void arm(std::uint64_t deadline_ns) override {
      deadline = deadline_ns;
      order = ++clock.arms_;
      armed = true;
    }
    void cancel() override { armed = false; }

    FakeClock& clock;
    std::function<void()> callback;
    std::uint64_t deadline = 0;
    std::uint64_t order = 0;
    bool armed = false;
  };

  FakeTimer* next_due(std::uint64_t end) {
    FakeTimer* next = nullptr;
    for (FakeTimer* timer : timers_) {
      if (!timer->armed || timer->deadline > end) continue;
      if (next == nullptr ||
          std::pair(timer->deadline, timer->order) < std::pair(next->deadline, next->order)) {
        next = timer;
      }
    }
    return next;
  }
  void move_to(std::uint64_t ns) {
    realtime_ns_ += static_cast<std::int64_t>(ns - monotonic_ns_);
    monotonic_ns_ = ns;
  }
  void pass() const {
    monotonic_ns_ += per_look_;
    realtime_ns_ += static_cast<std::int64_t>(per_look_);
  }

  std::uint64_t per_look_ = 0;
  mutable std::uint64_t monotonic_ns_ = 1'000'000'000;
  mutable std::int64_t realtime_ns_ = 1'700'000'000'123'456'789;  // 2023-11-14 22:13:20 UTC
  std::uint64_t arms_ = 0;
  std::vector<FakeTimer*> timers_;
};

}  // namespace vmmd::testing
