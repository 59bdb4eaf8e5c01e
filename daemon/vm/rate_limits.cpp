#include "daemon/vm/rate_limits.h"

namespace vmmd::vm {

namespace {

std::optional<devices::TokenBucketConfig> bucket(const std::optional<api::TokenBucket>& config) {
  constexpr std::uint64_t kNsPerMs = 1'000'000;
  if (!config) return std::nullopt;
  std::uint64_t refill_ns = 0;
  if (__builtin_mul_overflow(config->refill_time, kNsPerMs, &refill_ns))
    refill_ns = devices::TokenBucket::kLimit;
  return devices::TokenBucketConfig{config->size, config->one_time_burst.value_or(0), refill_ns};
}

}  // namespace

std::shared_ptr<devices::RateLimiter> make_limiter(const std::optional<api::RateLimiterConfig>& config,
                                                   devices::Clock& clock) {
  if (!config) return nullptr;
  const auto& [bandwidth, ops] = *config;
  return std::make_shared<devices::RateLimiter>(devices::RateLimiter::Config{bucket(bandwidth), bucket(ops)},
                                                clock);
}

RateLimitGroups::RateLimitGroups(const std::vector<api::RateLimitGroupConfig>& groups) {
  for (const auto& [id, config] : groups) groups_[id].config = config;
}

std::shared_ptr<devices::RateLimiter> RateLimitGroups::limiter(const std::string& group,
                                                               devices::Clock& clock) {
  const auto found = groups_.find(group);
  if (found == groups_.end()) return nullptr;
  auto limiter = found->second.limiter.lock();
  if (!limiter) {
    limiter = make_limiter(found->second.config, clock);
    found->second.limiter = limiter;
  }
  return limiter;
}

}  // namespace vmmd::vm
