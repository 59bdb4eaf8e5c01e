#include "api/server.h"

#include <sys/socket.h>

#include <cerrno>
#include <exception>
#include <utility>
#include <vector>

#include <boost/asio/post.hpp>

#include "api/server_core.h"

namespace vmmd::api {

namespace {

/// Refused clients that may be told so at the same time; beyond that they are hung up on.
constexpr std::size_t kRefusals = 16;
/// Connections accepted in one go, so that many of them cannot keep others from being served.
constexpr std::size_t kAcceptBatch = 64;
/// Accepting goes on after this when the process has run out of descriptors.
constexpr std::chrono::seconds kAcceptPause{1};

}  // namespace

void Mailbox::post(std::function<void()> fn) {
  const std::scoped_lock lock(mutex_);
  if (context_ != nullptr) asio::post(*context_, std::move(fn));
}

void Mailbox::close() {
  const std::scoped_lock lock(mutex_);
  context_ = nullptr;
}

Session::Session(ApiServer::Core& core, asio::local::stream_protocol::socket socket)
    : core_(core), socket_(std::move(socket)), timer_(core.context) {}

void Session::leave() {
  boost::system::error_code ignored;
  (void)socket_.close(ignored);
  timer_.cancel();
  core_.leave(*this);
}

void Session::arm(Milliseconds delay) {
  deadline_ = Clock::now() + delay;
  // A wait that ends too early finds the new deadline and waits on: most requests need no timer call.
  if (!waiting_ || timer_.expiry() > deadline_) wait();
}

void Session::wait() {
  waiting_ = true;
  timer_.expires_at(deadline_);
  timer_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
    if (error) return;
    self->waiting_ = false;
    if (!self->socket_.is_open() || self->deadline_ == Clock::time_point::max()) return;
    if (Clock::now() < self->deadline_) {
      self->wait();
    } else {
      self->expired();
    }
  });
}

ApiServer::Core::Core(UniqueFd listener, Service& vm, EventBus& bus, const PingResponse& ping,
                      const ServerLimits& bounds)
    : limits(bounds), service(vm), events(bus), dispatcher(vm, ping) {
  acceptor.assign(asio::local::stream_protocol(), listener.get());
  (void)listener.release();
  acceptor.non_blocking(true);
  accept_when_ready();
}

ApiServer::Core::~Core() {
  mailbox->close();
}

void ApiServer::Core::accept_when_ready() {
  acceptor.async_wait(asio::socket_base::wait_read, [this](const boost::system::error_code& error) {
    if (!error && !stopping) accept_all();
  });
}

void ApiServer::Core::accept_all() {
  for (std::size_t i = 0; i < kAcceptBatch; ++i) {
    // Not Asio's accept: it leaves the descriptor open across exec.
    const int fd = ::accept4(acceptor.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EAGAIN) return accept_when_ready();
      return pause_accepting();  // no descriptors or memory: the client waits in the listener
    }
    asio::local::stream_protocol::socket socket(context);
    boost::system::error_code error;
    (void)socket.assign(asio::local::stream_protocol(), fd, error);
    if (error) {
      ::close(fd);
      return pause_accepting();
    }
    (void)socket.native_non_blocking(true, error);
    if (counted < limits.connections) {
      enter(make_connection(*this, std::move(socket)), true);
    } else if (sessions.size() - counted < kRefusals) {
      enter(make_refusal(*this, std::move(socket)), false);
    }
  }
  accept_when_ready();
}

void ApiServer::Core::pause_accepting() {
  accept_pause.expires_after(kAcceptPause);
  accept_pause.async_wait([this](const boost::system::error_code& error) {
    if (!error && !stopping) accept_all();
  });
}

void ApiServer::Core::enter(const std::shared_ptr<Session>& session, bool counts) {
  Session* key = session.get();
  if (sessions.try_emplace(key, session, counts).second && counts) ++counted;
}

void ApiServer::Core::leave(Session& session) {
  const auto found = sessions.find(&session);
  if (found == sessions.end()) return;
  // The caller runs inside this session: it must live until the handlers have unwound.
  const std::shared_ptr<Session> keep = std::move(found->second.first);
  if (found->second.second) --counted;
  sessions.erase(found);
  asio::post(context, [keep] {});
  if (stopping && sessions.empty()) context.stop();
}

void ApiServer::Core::stop() {
  if (stopping) return;
  stopping = true;
  boost::system::error_code ignored;
  (void)acceptor.close(ignored);
  accept_pause.cancel();
  std::vector<std::shared_ptr<Session>> all;
  all.reserve(sessions.size());
  for (const auto& [key, entry] : sessions) all.push_back(entry.first);
  for (const auto& session : all) session->stop();
  if (sessions.empty()) {
    context.stop();
    return;
  }
  drain_timer.expires_after(limits.drain);
  drain_timer.async_wait([this](const boost::system::error_code& error) {
    if (!error) context.stop();
  });
}

Result<std::unique_ptr<ApiServer>> ApiServer::make(UniqueFd listener, Service& service, EventBus& events,
                                                   const PingResponse& ping, const ServerLimits& limits) {
  try {
    auto core = std::make_unique<Core>(std::move(listener), service, events, ping, limits);
    return std::unique_ptr<ApiServer>(new ApiServer(std::move(core)));
  } catch (const std::exception& error) {
    return fail(ErrorCode::Internal, "cannot serve the API socket: {}", error.what());
  }
}

ApiServer::ApiServer(std::unique_ptr<Core> core) : core_(std::move(core)) {}
ApiServer::~ApiServer() = default;

void ApiServer::run() {
  core_->context.run();
  // What is left is cut off: it had its time.
  while (!core_->sessions.empty()) core_->sessions.begin()->second.first->leave();
}

void ApiServer::stop() {
  core_->mailbox->post([core = core_.get()] { core->stop(); });
}

void ApiServer::post(std::function<void()> fn) {
  core_->mailbox->post(std::move(fn));
}

namespace {

void wait_for_signal(ApiServer::Core& core) {
  core.signals->async_wait([&core](const boost::system::error_code& error, int signal) {
    if (error) return;
    core.on_signal(signal);
    wait_for_signal(core);
  });
}

}  // namespace

Status ApiServer::on_signals(std::initializer_list<int> signals, std::function<void(int)> fn) {
  try {
    auto set = std::make_unique<asio::signal_set>(core_->context);
    for (const int signal : signals) set->add(signal);
    core_->signals = std::move(set);
  } catch (const std::exception& error) {
    return fail(ErrorCode::Internal, "cannot watch for signals: {}", error.what());
  }
  core_->on_signal = std::move(fn);
  wait_for_signal(*core_);
  return {};
}

}  // namespace vmmd::api
