#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "api/endpoints.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace vmmd::api {

/// The answer of a request that succeeded.
struct Response {
  unsigned status = 0;  // 200 or 204
  std::string body;     // JSON, or empty
};

struct ClientTimeouts {
  std::chrono::milliseconds connect{5'000};
  /// For the whole answer; zero waits for ever, as a snapshot may need.
  std::chrono::milliseconds answer{0};
};

/// How to follow the events.
struct EventOptions {
  /// Start after this sequence number, as far as the daemon remembers; without, at the next event.
  std::optional<std::uint64_t> since;
  /// Called once when the daemon has subscribed us: what happens from now on is an event. False ends it.
  std::function<bool()> on_open;
  /// A descriptor (not ours) that ends the stream, as a success, once it is readable: a timerfd, an eventfd.
  int stop_fd = -1;
};

/// A blocking client for vmm-remote: one connection per request. An error of the server comes back as Error
/// with its code and the messages of its body; what goes wrong on the way names the socket's path.
class Client {
 public:
  using Timeouts = ClientTimeouts;

  explicit Client(std::string socket_path, Timeouts timeouts = {});

  /// `endpoint` is "vm.info", or a whole target when it starts with '/'. `fds` go with it, by SCM_RIGHTS.
  [[nodiscard]] Result<Response> request(Verb verb, std::string_view endpoint, std::string_view body = {},
                                         std::span<const UniqueFd> fds = {}) const;

  /// Follows GET /api/v1/events: calls `on_event` for each event, until it says false (success), the server
  /// ends the stream (success) or something fails. The answer time-out holds for the start only.
  [[nodiscard]] Status events(const std::function<bool(std::string_view json_line)>& on_event,
                              const EventOptions& options) const;
  [[nodiscard]] Status events(const std::function<bool(std::string_view json_line)>& on_event,
                              std::optional<std::uint64_t> since = std::nullopt) const {
    return events(on_event, EventOptions{since, {}, -1});
  }

 private:
  std::string path_;
  Timeouts timeouts_;
};

}  // namespace vmmd::api
