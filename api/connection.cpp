// One HTTP connection: read a request, answer it, go on. At most one operation on the socket and one request
// at a time; what a client pipelines stays in the socket (and in one read's worth of buffer) meanwhile.
//
// Descriptors that come along (SCM_RIGHTS) belong to the request whose bytes their message carries. A read
// ends with bytes of that message, but may start with those of a request before.

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <boost/asio/buffer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <fmt/format.h>

#include "api/passed_fds.h"
#include "api/server_core.h"

namespace vmmd::api {

namespace {

namespace beast = boost::beast;
namespace http = beast::http;
using ErrorCodeOfBoost = boost::system::error_code;

constexpr std::size_t kReadBytes = 8 << 10;
/// How long a client may take to notice that we said our last word.
constexpr std::chrono::milliseconds kLinger{1'000};

std::string_view as_std(beast::string_view text) {
  return {text.data(), text.size()};
}

std::optional<std::uint64_t> parse_sequence(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

class Connection final : public Session {
 public:
  using Session::Session;

  void start() {
    arm(core_.limits.idle);
    next_request();
  }
  void start_refusal() {
    version_ = 11;
    Answer answer =
        plain_answer(503, fmt::format("too many connections: {} are open; close one or try again later",
                                      core_.limits.connections));
    send(std::move(answer), /*then_close=*/true);
  }
  void stop() override;

 private:
  enum class State : std::uint8_t { Reading, Waiting, Writing, Lingering };

  void next_request();
  void read();
  void receive();
  void claim_fds();
  void parse();
  [[nodiscard]] bool header_complete();
  void read_failed(const ErrorCodeOfBoost& error);
  void bad_request(const ErrorCodeOfBoost& error);
  void refuse_early(Answer answer);
  void send_continue();
  void run_request();
  void start_events(std::string_view target);
  void watch_for_hangup();
  void answered(std::uint64_t number, Answer answer);
  void send(Answer answer, bool then_close);
  void sent(const ErrorCodeOfBoost& error, bool then_close);
  void linger();
  void discard();
  void expired() override;
  std::shared_ptr<Connection> self() { return std::static_pointer_cast<Connection>(shared_from_this()); }

  State state_ = State::Reading;
  bool started_ = false;       // the first byte of the request is here
  bool continued_ = false;     // "100 Continue" is sent, or not wanted
  bool peer_ended_ = false;    // it shut down its writing side
  unsigned version_ = 11;      // HTTP version of the request times ten, for its answer
  bool head_ = false;          // a HEAD request: its answer has no body
  std::uint64_t number_ = 0;   // of the request on this connection, to know late callbacks
  std::string cancel_job_;     // to cancel when the client hangs up
  PassedFds fds_;              // of the request
  PassedFds last_fds_;         // that came with the last read: of the request in which it ends
  beast::flat_buffer buffer_;  // bounded by parse()
  std::optional<http::request_parser<http::string_body>> parser_;
  http::response<http::string_body> response_;
  http::response<http::empty_body> continue_;
};

void Connection::stop() {
  // Waiting and Writing owe an answer, and end after it.
  if (state_ == State::Reading || state_ == State::Lingering) leave();
}

void Connection::next_request() {
  state_ = State::Reading;
  ++number_;
  started_ = false;
  continued_ = false;
  parser_.emplace();
  parser_->header_limit(static_cast<std::uint32_t>(core_.limits.header_bytes));
  parser_->body_limit(core_.limits.body_bytes);
  parse();
}

void Connection::read() {
  state_ = State::Reading;
  claim_fds();
  socket_.async_wait(asio::socket_base::wait_read, [self = self()](const ErrorCodeOfBoost& error) {
    if (!self->socket_.is_open() || self->state_ != State::Reading) return;
    if (error) return self->read_failed(error);
    self->receive();
  });
}

/// Asio's reads know no descriptors that come along.
void Connection::receive() {
  const auto room = buffer_.prepare(kReadBytes);
  const Received got = receive_with_fds(socket_.native_handle(),
                                        {static_cast<std::byte*>(room.data()), room.size()}, last_fds_);
  if (got.size < 0) {
    if (errno == EAGAIN || errno == EINTR) return read();
    return read_failed(ErrorCodeOfBoost(errno, boost::system::system_category()));
  }
  if (got.size == 0) return read_failed(asio::error::eof);
  buffer_.commit(static_cast<std::size_t>(got.size));
  if (got.fds_lost) {
    return refuse_early(
        plain_answer(500, "descriptors that came with the request are lost: vmmd may not open more files"));
  }
  if (fds_.size() + last_fds_.size() > kMaxPassedFds) {
    return refuse_early(
        plain_answer(400, fmt::format("more than {} descriptors came with the request", kMaxPassedFds)));
  }
  parse();
}

/// What came with the last read is the request's, as it has not ended or has ended with that read.
void Connection::claim_fds() {
  std::move(last_fds_.begin(), last_fds_.end(), std::back_inserter(fds_));
  last_fds_.clear();
}

void Connection::read_failed(const ErrorCodeOfBoost& error) {
  if (error != asio::error::eof || !started_) return leave();
  peer_ended_ = true;
  refuse_early(plain_answer(400, "the request ends before it is complete"));
}

void Connection::refuse_early(Answer answer) {
  version_ = parser_->is_header_done() ? parser_->get().version() : 11;
  send(std::move(answer), /*then_close=*/true);
}

void Connection::parse() {
  while (buffer_.size() != 0) {
    if (!started_) {
      started_ = true;
      arm(core_.limits.transfer);
    }
    ErrorCodeOfBoost error;
    const std::size_t used = parser_->put(buffer_.data(), error);
    buffer_.consume(used);
    if (error == http::error::need_more) break;
    if (error) return bad_request(error);
    if (parser_->is_header_done() && !continued_ && !header_complete()) return;
    if (parser_->is_done()) return run_request();
    if (used == 0) break;
  }
  // The parser bounds headers and bodies, but leaves the line in front of a chunk to us.
  if (buffer_.size() > core_.limits.header_bytes) return bad_request(http::error::header_limit);
  read();
}

/// Decides what can be decided before the body. False: something was sent, and its handler goes on.
bool Connection::header_complete() {
  continued_ = true;
  const auto& request = parser_->get();
  version_ = request.version();
  head_ = request.method() == http::verb::head;
  const auto expect = request.find(http::field::expect);
  if (expect == request.end() || version_ < 11) return true;
  if (!beast::iequals(expect->value(), "100-continue")) {
    send(plain_answer(417, "the only expectation known here is 100-continue"), /*then_close=*/true);
    return false;
  }
  // A refusal spares the client the body; whether it sends it all the same cannot be known: hang up.
  auto refused = Dispatcher::refuse(find_endpoint(as_std(request.target())), as_std(request.method_string()),
                                    as_std(request.target()));
  if (refused) {
    send(std::move(*refused), /*then_close=*/true);
    return false;
  }
  if (parser_->is_done() || buffer_.size() != 0) return true;  // it did not wait
  send_continue();
  return false;
}

void Connection::send_continue() {
  state_ = State::Writing;
  continue_ = {};
  continue_.result(http::status::continue_);
  continue_.version(11);
  http::async_write(socket_, continue_, [self = self()](const ErrorCodeOfBoost& error, std::size_t) {
    if (!self->socket_.is_open()) return;
    if (error || self->core_.stopping) return self->leave();
    self->parse();
  });
}

void Connection::bad_request(const ErrorCodeOfBoost& error) {
  Answer answer;
  if (error == http::error::header_limit) {
    answer = plain_answer(
        413, fmt::format("the request's header is longer than {} bytes", core_.limits.header_bytes));
  } else if (error == http::error::body_limit) {
    answer =
        plain_answer(413, fmt::format("the request's body is longer than {} bytes", core_.limits.body_bytes));
  } else {
    answer = plain_answer(400, fmt::format("not an HTTP/1.1 request: {}", error.message()));
  }
  refuse_early(std::move(answer));
}

void Connection::run_request() {
  disarm();
  if (buffer_.size() == 0) claim_fds();
  auto& request = parser_->get();
  const std::string_view target = as_std(request.target());
  const Endpoint* endpoint = find_endpoint(target);
  if (auto refused = Dispatcher::refuse(endpoint, as_std(request.method_string()), target)) {
    return send(std::move(*refused), !request.keep_alive());
  }
  if (endpoint->action == Action::Events) return start_events(target);

  state_ = State::Waiting;
  const std::weak_ptr<Connection> weak = self();
  auto reply = [weak, mailbox = core_.mailbox, number = number_](Answer answer) {
    mailbox->post([weak, number, answer = std::move(answer)]() mutable {
      if (const auto connection = weak.lock()) connection->answered(number, std::move(answer));
    });
  };
  auto outcome = core_.dispatcher.run(*endpoint, request.body(), std::exchange(fds_, {}), std::move(reply));
  if (outcome.now) return send(std::move(*outcome.now), !request.keep_alive());
  cancel_job_ = std::move(outcome.cancel_on_disconnect);
  watch_for_hangup();
}

/// A client that only shut down its writing side still waits for its answer; one that closed does not. The
/// kernel tells them apart: EPOLLHUP comes with the second only.
void Connection::watch_for_hangup() {
  auto hung_up = [self = self(), number = number_](const ErrorCodeOfBoost& error) {
    if (error || !self->socket_.is_open() || self->state_ != State::Waiting || self->number_ != number)
      return;
    // The command goes on without its client, unless that asked otherwise; its slot is free at once.
    if (!self->cancel_job_.empty()) {
      self->core_.service.cancel(std::move(self->cancel_job_), [](const Result<void>&) {});
    }
    self->leave();
  };
  socket_.async_wait(asio::socket_base::wait_error, std::move(hung_up));
}

void Connection::answered(std::uint64_t number, Answer answer) {
  if (!socket_.is_open() || state_ != State::Waiting || number != number_) return;
  cancel_job_.clear();
  ErrorCodeOfBoost ignored;
  (void)socket_.cancel(ignored);  // the watch for a hang-up
  send(std::move(answer), !parser_->get().keep_alive());
}

void Connection::start_events(std::string_view target) {
  const auto& request = parser_->get();
  // The header is the later word: a browser repeats the first request's target when it reconnects.
  std::string_view text = as_std(request["Last-Event-ID"]);
  if (text.empty()) text = query_value(target, "since");
  std::optional<std::uint64_t> since;
  if (!text.empty()) {
    since = parse_sequence(text);
    if (!since) {
      return send(plain_answer(400, "since and Last-Event-ID take the sequence number of an event"),
                  !request.keep_alive());
    }
  }
  auto refused = Dispatcher::refuse_body("events", request.body());
  if (!refused) refused = Dispatcher::refuse_fds("events", fds_.size());
  if (refused) return send(std::move(*refused), !request.keep_alive());
  const auto stream = make_event_stream(core_, std::move(socket_), since, version_ >= 11);
  leave();
  core_.enter(stream, true);
}

void Connection::send(Answer answer, bool then_close) {
  state_ = State::Writing;
  if (core_.stopping) then_close = true;
  fds_.clear();  // nobody took them
  if (then_close) last_fds_.clear();
  response_ = {};
  response_.version(version_);
  response_.result(answer.status);
  response_.set(http::field::server, kServerName);
  response_.set(http::field::content_type, "application/json");
  if (!answer.allow.empty()) {
    response_.set(http::field::allow, beast::string_view(answer.allow.data(), answer.allow.size()));
  }
  response_.keep_alive(!then_close);
  if (!head_) response_.body() = std::move(answer.body);
  // RFC 9110, 8.6: no Content-Length with 204.
  if (answer.status != 204) response_.prepare_payload();
  arm(core_.limits.transfer);
  http::async_write(socket_, response_,
                    [self = self(), then_close](const ErrorCodeOfBoost& error, std::size_t) {
                      self->sent(error, then_close);
                    });
}

void Connection::sent(const ErrorCodeOfBoost& error, bool then_close) {
  if (!socket_.is_open()) return;
  if (error || core_.stopping) return leave();
  if (then_close) return linger();
  head_ = false;
  arm(core_.limits.idle);
  next_request();
}

/// Closing a socket with unread bytes in it resets the client, which may then never see the answer: say that
/// this was all, and read until it has said so too. Descriptors that still come are closed by the kernel.
void Connection::linger() {
  if (peer_ended_) return leave();
  state_ = State::Lingering;
  ErrorCodeOfBoost error;
  (void)socket_.shutdown(asio::socket_base::shutdown_send, error);
  if (error) return leave();
  arm(std::min(kLinger, core_.limits.transfer));
  parser_.reset();
  buffer_.clear();
  discard();
}

void Connection::discard() {
  socket_.async_read_some(buffer_.prepare(kReadBytes),
                          [self = self()](const ErrorCodeOfBoost& error, std::size_t) {
                            if (!self->socket_.is_open()) return;
                            if (error) return self->leave();
                            self->discard();
                          });
}

void Connection::expired() {
  if (state_ != State::Reading || !started_) return leave();
  ErrorCodeOfBoost ignored;
  (void)socket_.cancel(ignored);  // the read
  send(plain_answer(408,
                    fmt::format("the request was not complete after {} ms", core_.limits.transfer.count())),
       /*then_close=*/true);
}

}  // namespace

std::shared_ptr<Session> make_connection(ApiServer::Core& core, asio::local::stream_protocol::socket socket) {
  auto connection = std::make_shared<Connection>(core, std::move(socket));
  connection->start();
  return connection;
}

std::shared_ptr<Session> make_refusal(ApiServer::Core& core, asio::local::stream_protocol::socket socket) {
  auto connection = std::make_shared<Connection>(core, std::move(socket));
  connection->start_refusal();
  return connection;
}

}  // namespace vmmd::api
