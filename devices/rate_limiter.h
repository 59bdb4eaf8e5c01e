#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "devices/clock.h"
#include "devices/event_loop.h"
#include "proto/state.pb.h"

namespace vmmd::devices {

/// `size` tokens, filled again evenly within `refill_ns`; `one_time_burst` more at power-on, used up first
/// and never filled again. Cloud Hypervisor's and Firecracker's parameters; a size or time of 0 limits
/// nothing.
struct TokenBucketConfig {
  std::uint64_t size = 0;
  std::uint64_t one_time_burst = 0;
  std::uint64_t refill_ns = 0;
};

/// Tokens over time. Not locked.
class TokenBucket {
 public:
  /// Sizes above this many tokens, or refill times above this many nanoseconds (36 years), are cut to it.
  static constexpr std::uint64_t kLimit = std::uint64_t{1} << 60;

  TokenBucket(const TokenBucketConfig& config, std::uint64_t now_ns);

  /// Whether `count` may be taken now: the bucket holds as many, or is full. So a request larger than the
  /// bucket passes, and leaves a debt that time pays back.
  [[nodiscard]] bool has(std::uint64_t count, std::uint64_t now_ns);
  /// Only after has() said yes.
  void take(std::uint64_t count);
  /// When has() will say yes if nobody takes anything meanwhile.
  [[nodiscard]] std::uint64_t ready_ns(std::uint64_t count) const;

  void save(state::TokenBucket& message) const;
  /// Of any bucket: what a smaller one does not hold is cut.
  void restore(const state::TokenBucket& message);
  void reset(std::uint64_t now_ns);

 private:
  struct State {
    std::int64_t tokens = 0;        // at refilled_ns; negative: a debt
    std::uint64_t burst = 0;        // what is left of one_time_burst
    std::uint64_t refilled_ns = 0;  // guest time
  };
  [[nodiscard]] bool limited() const { return config_.size != 0 && config_.refill_ns != 0; }
  void refill(std::uint64_t now_ns);

  TokenBucketConfig config_;
  State state_;
};

/// Two token buckets, bytes and requests, in guest time: a paused guest saves up nothing. Several devices may
/// share one (rate_limit_groups); each comes through its own RateLimited. Thread-safe.
///
/// Lock order: a RateLimited's waiter, then the limiter's, then the clock's.
class RateLimiter {
 public:
  struct Config {
    std::optional<TokenBucketConfig> bandwidth;  // bytes
    std::optional<TokenBucketConfig> ops;        // requests
  };
  /// `clock` outlives it. What uses it holds it (shared_ptr); destroyed where no lock of a device is held.
  RateLimiter(const Config& config, Clock& clock);

  /// Part of the state of each device that uses it; those that share one save, and restore, the same.
  void save(state::RateLimiter& message) const;
  void restore(const state::RateLimiter& message);  // of any limiter: a restore may have another
  void reset();

 private:
  friend class RateLimited;
  /// One who was refused, until it is told.
  struct Waiter {
    explicit Waiter(EventLoop& l) : loop(l) {}
    EventLoop& loop;
    std::mutex mutex;             // held while `ready` runs
    std::function<void()> ready;  // empty: its RateLimited is gone
    bool waiting = false;         // under the limiter's lock
  };
  [[nodiscard]] bool take(std::uint64_t bytes, std::uint64_t ops, const std::shared_ptr<Waiter>& waiter);
  void tell_waiters();

  Clock& clock_;
  mutable std::mutex mutex_;
  std::optional<TokenBucket> bandwidth_;
  std::optional<TokenBucket> ops_;
  std::uint64_t deadline_ns_ = 0;  // the timer's; only while there are waiters
  std::vector<std::shared_ptr<Waiter>> waiters_;
  std::unique_ptr<Timer> timer_;  // last: its destructor waits for tell_waiters()
};

/// One device's way to a limiter, on the device's loop. Without a limiter everything passes.
///
///     if (!limit_.take(bytes)) { queue.undo_pop(); return; }  // `ready` looks at the queue again
class RateLimited {
 public:
  /// `ready` runs on `loop` once after a take() that was refused, when trying again is worth it. It does not
  /// destroy this object.
  RateLimited(std::shared_ptr<RateLimiter> limiter, EventLoop& loop, std::function<void()> ready);
  /// On any thread; `ready` does not run any more afterwards.
  ~RateLimited();
  RateLimited(const RateLimited&) = delete;
  RateLimited& operator=(const RateLimited&) = delete;

  /// Takes both kinds of tokens or none.
  [[nodiscard]] bool take(std::uint64_t bytes, std::uint64_t ops = 1) {
    return limiter_ == nullptr || limiter_->take(bytes, ops, waiter_);
  }
  [[nodiscard]] RateLimiter* limiter() const { return limiter_.get(); }

 private:
  std::shared_ptr<RateLimiter> limiter_;
  std::shared_ptr<RateLimiter::Waiter> waiter_;  // nullptr without a limiter
};

}  // namespace vmmd::devices
