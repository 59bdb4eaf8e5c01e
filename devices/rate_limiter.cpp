#include "devices/rate_limiter.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace vmmd::devices {

namespace {

// -Wpedantic knows no 128-bit integers, the target does.
__extension__ using Wide = unsigned __int128;

// More than any chain can carry; keeps debts far from overflow.
constexpr std::uint64_t kMaxRequest = std::uint64_t{1} << 56;

std::uint64_t multiply_divide(std::uint64_t a, std::uint64_t b, std::uint64_t divisor, bool up) {
  const Wide product = Wide{a} * b + (up ? divisor - 1 : 0);
  return static_cast<std::uint64_t>(
      std::min<Wide>(product / divisor, std::numeric_limits<std::uint64_t>::max()));
}

std::int64_t to_signed(std::uint64_t tokens) {
  return static_cast<std::int64_t>(tokens);  // at most kLimit
}

}  // namespace

TokenBucket::TokenBucket(const TokenBucketConfig& config, std::uint64_t now_ns)
    : config_{std::min(config.size, kLimit), std::min(config.one_time_burst, kLimit),
              std::min(config.refill_ns, kLimit)} {
  reset(now_ns);
}

void TokenBucket::reset(std::uint64_t now_ns) {
  state_ = {.tokens = to_signed(config_.size), .burst = config_.one_time_burst, .refilled_ns = now_ns};
}

void TokenBucket::refill(std::uint64_t now_ns) {
  auto& [tokens, burst, refilled_ns] = state_;
  const std::int64_t full = to_signed(config_.size);
  // A restored time may lie ahead of the clock; then filling starts now.
  if (now_ns < refilled_ns || tokens >= full) {
    refilled_ns = now_ns;
    return;
  }
  const std::uint64_t fresh =
      multiply_divide(now_ns - refilled_ns, config_.size, config_.refill_ns, /*up=*/false);
  const auto missing = static_cast<std::uint64_t>(full - tokens);
  if (fresh >= missing) {
    tokens = full;
    refilled_ns = now_ns;
    return;
  }
  tokens += to_signed(fresh);
  // Only the time that whole tokens took, rounded up: the rate is never exceeded, nor is time lost.
  refilled_ns += multiply_divide(fresh, config_.refill_ns, config_.size, /*up=*/true);
}

bool TokenBucket::has(std::uint64_t count, std::uint64_t now_ns) {
  if (!limited()) return true;
  refill(now_ns);
  // tokens + burst cannot overflow: both are at most kLimit.
  return state_.tokens + to_signed(state_.burst) >= to_signed(std::min(count, config_.size));
}

void TokenBucket::take(std::uint64_t count) {
  if (!limited()) return;
  count = std::min(count, kMaxRequest);
  const std::uint64_t from_burst = std::min(state_.burst, count);
  state_.burst -= from_burst;
  state_.tokens -= to_signed(count - from_burst);
}

std::uint64_t TokenBucket::ready_ns(std::uint64_t count) const {
  const std::int64_t missing =
      to_signed(std::min(count, config_.size)) - to_signed(state_.burst) - state_.tokens;
  if (!limited() || missing <= 0) return state_.refilled_ns;
  const std::uint64_t wait =
      multiply_divide(static_cast<std::uint64_t>(missing), config_.refill_ns, config_.size, /*up=*/true);
  const std::uint64_t most = std::numeric_limits<std::uint64_t>::max() - state_.refilled_ns;
  return state_.refilled_ns + std::min(wait, most);
}

void TokenBucket::save(state::TokenBucket& message) const {
  const auto& [tokens, burst, refilled_ns] = state_;
  message.set_tokens(tokens);
  message.set_burst(burst);
  message.set_refilled_ns(refilled_ns);
}

void TokenBucket::restore(const state::TokenBucket& message) {
  State next;
  auto& [tokens, burst, refilled_ns] = next;
  tokens = std::clamp(message.tokens(), -to_signed(kMaxRequest), to_signed(config_.size));
  burst = std::min(message.burst(), config_.one_time_burst);
  refilled_ns = message.refilled_ns();
  state_ = next;
}

RateLimiter::RateLimiter(const Config& config, Clock& clock) : clock_(clock) {
  const std::uint64_t now = clock.monotonic_ns();
  if (config.bandwidth) bandwidth_.emplace(*config.bandwidth, now);
  if (config.ops) ops_.emplace(*config.ops, now);
  timer_ = clock.make_timer([this] { tell_waiters(); });
}

bool RateLimiter::take(std::uint64_t bytes, std::uint64_t ops, const std::shared_ptr<Waiter>& waiter) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t now = clock_.monotonic_ns();
  const bool passes = (!bandwidth_ || bandwidth_->has(bytes, now)) && (!ops_ || ops_->has(ops, now));
  if (passes) {
    if (bandwidth_) bandwidth_->take(bytes);
    if (ops_) ops_->take(ops);
    return true;
  }
  std::uint64_t ready = now + 1;
  if (bandwidth_) ready = std::max(ready, bandwidth_->ready_ns(bytes));
  if (ops_) ready = std::max(ready, ops_->ready_ns(ops));
  if (!waiter->waiting) {
    waiter->waiting = true;
    waiters_.push_back(waiter);
  }
  if (waiters_.size() == 1 || ready < deadline_ns_) {
    deadline_ns_ = ready;
    timer_->arm(ready);
  }
  return false;
}

// Tells all who wait: whose turn it is, the buckets decide; those refused again wait again.
void RateLimiter::tell_waiters() {
  std::vector<std::shared_ptr<Waiter>> told;
  {
    const std::lock_guard lock(mutex_);
    told.swap(waiters_);
    for (const auto& waiter : told) waiter->waiting = false;
  }
  for (const auto& waiter : told) {
    waiter->loop.post([waiter] {
      const std::lock_guard lock(waiter->mutex);
      if (waiter->ready) waiter->ready();
    });
  }
}

void RateLimiter::save(state::RateLimiter& message) const {
  const std::lock_guard lock(mutex_);
  if (bandwidth_) bandwidth_->save(*message.mutable_bandwidth());
  if (ops_) ops_->save(*message.mutable_ops());
}

// A bucket that was not saved is new here (an override): it starts full.
void RateLimiter::restore(const state::RateLimiter& message) {
  const std::lock_guard lock(mutex_);
  if (bandwidth_ && message.has_bandwidth()) bandwidth_->restore(message.bandwidth());
  if (ops_ && message.has_ops()) ops_->restore(message.ops());
}

void RateLimiter::reset() {
  const std::lock_guard lock(mutex_);
  const std::uint64_t now = clock_.monotonic_ns();
  if (bandwidth_) bandwidth_->reset(now);
  if (ops_) ops_->reset(now);
}

RateLimited::RateLimited(std::shared_ptr<RateLimiter> limiter, EventLoop& loop, std::function<void()> ready)
    : limiter_(std::move(limiter)) {
  if (limiter_ == nullptr) return;
  waiter_ = std::make_shared<RateLimiter::Waiter>(loop);
  waiter_->ready = std::move(ready);
}

RateLimited::~RateLimited() {
  if (waiter_ == nullptr) return;
  const std::lock_guard lock(waiter_->mutex);
  waiter_->ready = nullptr;
}

}  // namespace vmmd::devices
