#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/config_devices.h"
#include "devices/clock.h"
#include "devices/rate_limiter.h"

namespace vmmd::vm {

/// A limiter as configured; nullptr without a configuration.
[[nodiscard]] std::shared_ptr<devices::RateLimiter> make_limiter(
    const std::optional<api::RateLimiterConfig>& config, devices::Clock& clock);

/// The configuration's rate_limit_groups. The devices of one machine share a limiter for each group; it goes
/// with the last of them, so the next machine begins with full buckets. For the VM thread.
class RateLimitGroups {
 public:
  explicit RateLimitGroups(const std::vector<api::RateLimitGroupConfig>& groups);
  /// nullptr if there is no such group.
  [[nodiscard]] std::shared_ptr<devices::RateLimiter> limiter(const std::string& group,
                                                              devices::Clock& clock);

 private:
  struct Group {
    api::RateLimiterConfig config;
    std::weak_ptr<devices::RateLimiter> limiter;
  };
  std::map<std::string, Group> groups_;
};

}  // namespace vmmd::vm
