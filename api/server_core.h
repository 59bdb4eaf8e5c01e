#pragma once

// Private to the server's .cpp files: what its connections share.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>

#include "api/dispatch.h"
#include "api/server.h"

namespace vmmd::api {

namespace asio = boost::asio;

/// The Server header of every answer.
inline constexpr const char* kServerName = "vmmd";

/// The way to the API thread for callbacks that may outlive the server: post() does nothing once it is gone.
class Mailbox {
 public:
  explicit Mailbox(asio::io_context& context) : context_(&context) {}
  void post(std::function<void()> fn);
  void close();

 private:
  std::mutex mutex_;  // held while posting, so that close() waits for the last post
  asio::io_context* context_;
};

/// One accepted socket, kept alive by the Core's table (and by its handlers in flight) until leave().
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(ApiServer::Core& core, asio::local::stream_protocol::socket socket);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  virtual ~Session() = default;

  /// The server stops: end as soon as the client has what it is owed.
  virtual void stop() = 0;
  /// Ends now: closes the socket and leaves the table.
  void leave();

 protected:
  using Milliseconds = std::chrono::milliseconds;

  /// Calls expired() after `delay`, unless re-armed or disarmed before. Cheap to push back.
  void arm(Milliseconds delay);
  void disarm() { deadline_ = Clock::time_point::max(); }
  virtual void expired() { leave(); }

  ApiServer::Core& core_;
  asio::local::stream_protocol::socket socket_;

 private:
  using Clock = std::chrono::steady_clock;
  void wait();

  asio::steady_timer timer_;
  Clock::time_point deadline_ = Clock::time_point::max();
  bool waiting_ = false;
};

struct ApiServer::Core {
  Core(UniqueFd listener, Service& vm, EventBus& bus, const PingResponse& ping, const ServerLimits& bounds);
  ~Core();

  void accept_when_ready();
  void accept_all();
  void pause_accepting();
  /// Puts a session into the table. `counted` ones fill the connection limit.
  void enter(const std::shared_ptr<Session>& session, bool counted);
  void leave(Session& session);
  void stop();

  // First: everything below refers to it, and handlers it still holds at the end refer to sessions.
  asio::io_context context{1};
  std::shared_ptr<Mailbox> mailbox = std::make_shared<Mailbox>(context);
  asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
  const ServerLimits limits;
  Service& service;
  EventBus& events;
  Dispatcher dispatcher;
  asio::local::stream_protocol::acceptor acceptor{context};
  asio::steady_timer accept_pause{context};
  asio::steady_timer drain_timer{context};
  std::unique_ptr<asio::signal_set> signals;
  std::function<void(int)> on_signal;
  std::unordered_map<Session*, std::pair<std::shared_ptr<Session>, bool>> sessions;
  std::size_t counted = 0;
  bool stopping = false;
};

/// Serves HTTP on a socket.
std::shared_ptr<Session> make_connection(ApiServer::Core& core, asio::local::stream_protocol::socket socket);
/// Answers 503 without reading anything, and hangs up.
std::shared_ptr<Session> make_refusal(ApiServer::Core& core, asio::local::stream_protocol::socket socket);

/// Takes the socket of a connection that asked for the events after `since` (nothing: from now on).
/// `chunked`: HTTP/1.1.
std::shared_ptr<Session> make_event_stream(ApiServer::Core& core, asio::local::stream_protocol::socket socket,
                                           std::optional<std::uint64_t> since, bool chunked);

}  // namespace vmmd::api
