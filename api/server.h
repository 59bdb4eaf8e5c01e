#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <memory>

#include "api/events.h"
#include "api/messages.h"
#include "api/service.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace vmmd::api {

/// Bounds on what a client can make the server hold, and for how long.
struct ServerLimits {
  std::size_t header_bytes = 16 << 10;     // beyond: 413
  std::size_t body_bytes = 4 << 20;        // beyond: 413
  std::size_t connections = 64;            // beyond: 503, then closed
  std::size_t stream_events = 1024;        // events waiting for one slow reader; beyond: its stream ends
  std::chrono::milliseconds idle{60'000};  // between requests
  std::chrono::milliseconds transfer{
      10'000};                             // from a request's first byte to its last; also to write an answer
  std::chrono::milliseconds drain{2'000};  // how long stop() waits for answers in progress
};

/// The HTTP server: one thread (whoever calls run()), one io_context, any number of connections up to the
/// limit. It never waits for the Service: answers come back through Done callbacks, on any thread, while
/// other connections are served. A connection has one request in progress; what a client pipelines waits in
/// the socket.
class ApiServer {
 public:
  /// `listener` is a listening Unix stream socket (see socket.h). `service` and `events` must outlive the
  /// server; Done callbacks may outlive it.
  static Result<std::unique_ptr<ApiServer>> make(UniqueFd listener, Service& service, EventBus& events,
                                                 const PingResponse& ping, const ServerLimits& limits = {});
  ~ApiServer();
  ApiServer(const ApiServer&) = delete;
  ApiServer& operator=(const ApiServer&) = delete;

  /// Serves until stop(). Once.
  void run();
  /// From any thread, any number of times: no new connections, idle ones close, answers in progress are
  /// written for at most `limits.drain`, event streams end; then run() returns.
  void stop();
  /// Runs `fn` on the API thread. From any thread; dropped after run() has returned.
  void post(std::function<void()> fn);
  /// Calls `fn` on the API thread whenever one of `signals` arrives. Before run(), at most once. The
  /// process-wide disposition of these signals changes.
  Status on_signals(std::initializer_list<int> signals, std::function<void(int)> fn);

  struct Core;  // api/server_core.h

 private:
  explicit ApiServer(std::unique_ptr<Core> core);
  std::unique_ptr<Core> core_;
};

}  // namespace vmmd::api
