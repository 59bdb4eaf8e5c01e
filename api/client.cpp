#include "api/client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <utility>

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <boost/system/system_error.hpp>
#include <fmt/format.h>

#include "api/messages.h"
#include "api/passed_fds.h"
#include "base/unique_fd.h"

namespace vmmd::api {

namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using ErrorCodeOfBoost = boost::system::error_code;
using Clock = std::chrono::steady_clock;

/// vm.info of a VM with everything is some ten KiB.
constexpr std::uint64_t kBodyLimit = 64 << 20;
/// One event of the stream.
constexpr std::size_t kLineLimit = 1 << 20;

/// Beast's SyncReadStream and SyncWriteStream over a blocking socket, with a deadline: Asio's own blocking
/// calls know none.
class Stream {
 public:
  explicit Stream(UniqueFd fd) : fd_(std::move(fd)) {}

  void expires_at(Clock::time_point deadline) { deadline_ = deadline; }
  /// These go with the first bytes that are written; they outlive that.
  void sends(std::span<const UniqueFd> fds) { fds_to_send_ = fds; }
  /// Waiting ends with operation_aborted once `fd` is readable; -1 for never.
  void stops_at(int fd) { stop_fd_ = fd; }

  template <class Buffers>
  std::size_t read_some(const Buffers& buffers, ErrorCodeOfBoost& error) {
    const asio::mutable_buffer buffer = first<asio::mutable_buffer>(buffers);
    const std::size_t size =
        transfer(POLLIN, error, [&] { return ::recv(fd_.get(), buffer.data(), buffer.size(), 0); });
    if (!error && size == 0 && buffer.size() != 0) error = asio::error::eof;
    return size;
  }

  template <class Buffers>
  std::size_t write_some(const Buffers& buffers, ErrorCodeOfBoost& error) {
    const asio::const_buffer buffer = first<asio::const_buffer>(buffers);
    const auto fds = std::exchange(fds_to_send_, {});
    return transfer(POLLOUT, error, [&] {
      return send_with_fds(fd_.get(), {static_cast<const std::byte*>(buffer.data()), buffer.size()}, fds);
    });
  }

  // The concept asks for the throwing forms too; nobody calls them.
  template <class Buffers>
  std::size_t read_some(const Buffers& buffers) {
    return or_throw([&](ErrorCodeOfBoost& error) { return read_some(buffers, error); });
  }
  template <class Buffers>
  std::size_t write_some(const Buffers& buffers) {
    return or_throw([&](ErrorCodeOfBoost& error) { return write_some(buffers, error); });
  }

 private:
  template <class Call>
  static std::size_t or_throw(const Call& call) {
    ErrorCodeOfBoost error;
    const std::size_t size = call(error);
    if (error) throw boost::system::system_error(error);
    return size;
  }

  template <class Buffer, class Buffers>
  static Buffer first(const Buffers& buffers) {
    for (auto it = asio::buffer_sequence_begin(buffers); it != asio::buffer_sequence_end(buffers); ++it) {
      const Buffer buffer = *it;
      if (buffer.size() != 0) return buffer;
    }
    return {};
  }

  template <class Call>
  std::size_t transfer(short events, ErrorCodeOfBoost& error, const Call& call) {
    error = {};
    for (;;) {
      if (!wait(events, error)) return 0;
      const ssize_t size = call();
      if (size >= 0) return static_cast<std::size_t>(size);
      if (errno == EINTR || errno == EAGAIN) continue;
      error.assign(errno, boost::system::system_category());
      return 0;
    }
  }

  bool wait(short events, ErrorCodeOfBoost& error) {
    for (;;) {
      timespec left = {};
      const bool forever = deadline_ == Clock::time_point::max();
      if (!forever) {
        const auto rest = std::max(deadline_ - Clock::now(), Clock::duration::zero());
        left.tv_sec = std::chrono::duration_cast<std::chrono::seconds>(rest).count();
        left.tv_nsec = (rest % std::chrono::seconds(1)).count();
      }
      pollfd entries[] = {{stop_fd_, POLLIN, 0}, {fd_.get(), events, 0}};  // poll skips -1
      const int ready = ::ppoll(entries, 2, forever ? nullptr : &left, nullptr);
      if (ready > 0 && entries[0].revents == 0) return true;
      if (ready > 0) {
        error = asio::error::operation_aborted;
        return false;
      }
      if (ready < 0 && errno == EINTR) continue;
      if (ready == 0) {
        error = asio::error::timed_out;
      } else {
        error.assign(errno, boost::system::system_category());
      }
      return false;
    }
  }

  UniqueFd fd_;
  int stop_fd_ = -1;
  std::span<const UniqueFd> fds_to_send_;
  Clock::time_point deadline_ = Clock::time_point::max();
};

Result<UniqueFd> connect_to(const std::string& path, std::chrono::milliseconds timeout) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return fail(ErrorCode::BadRequest, "the API socket's path must have 1 to {} bytes, not {}: {}",
                sizeof address.sun_path - 1, path.size(), path);
  }
  path.copy(address.sun_path, path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno(ErrorCode::Internal, errno, "cannot make a socket");
  // A Unix connect waits while the listener's backlog is full, as long as a send may.
  const timeval patience = {timeout.count() / 1000, (timeout.count() % 1000) * 1000};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  int result = 0;
  do {
    result = ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return fd;
  switch (const int error = errno; error) {
    case ENOENT:
      return fail(ErrorCode::NotFound, "no API socket at {}: is vmmd running? See --api-socket", path);
    case ECONNREFUSED:
      return fail(ErrorCode::NotFound, "nobody listens at {}: is vmmd running?", path);
    case EAGAIN:
      return fail(ErrorCode::TooMany, "{} does not take the connection within {} ms", path, timeout.count());
    case EACCES:
      return fail_errno(ErrorCode::BadRequest, error, "cannot connect to {}: run as the user of vmmd", path);
    default:
      return fail_errno(ErrorCode::BadRequest, error, "cannot connect to {}", path);
  }
}

tl::unexpected<Error> broken(const ErrorCodeOfBoost& error, const std::string& path, std::string_view doing) {
  if (error == asio::error::timed_out) {
    return fail(ErrorCode::Internal, "{} did not answer in time ({})", path, doing);
  }
  if (error == asio::error::eof || error == http::error::end_of_stream ||
      error == http::error::partial_message) {
    return fail(ErrorCode::Internal, "the daemon at {} closed the connection before its answer was complete",
                path);
  }
  return wrap(Error{ErrorCode::Internal, {error.message()}}, "cannot {} {}", doing, path);
}

http::request<http::string_body> make_request(Verb verb, std::string_view endpoint, std::string_view body) {
  const std::string target =
      endpoint.starts_with('/') ? std::string(endpoint) : fmt::format("{}{}", kApiRoot, endpoint);
  http::request<http::string_body> request(verb == Verb::Get ? http::verb::get : http::verb::put, target, 11);
  request.set(http::field::host, "localhost");
  request.set(http::field::user_agent, "vmm-remote");
  request.set(http::field::accept, "*/*");
  request.keep_alive(false);
  if (!body.empty()) request.set(http::field::content_type, "application/json");
  request.body() = std::string(body);
  request.prepare_payload();
  return request;
}

Clock::time_point after(std::chrono::milliseconds timeout) {
  return timeout.count() == 0 ? Clock::time_point::max() : Clock::now() + timeout;
}

/// A server that refuses early answers and hangs up while we still write: what counts is its answer.
bool answered_early(const ErrorCodeOfBoost& error) {
  return error == boost::system::errc::broken_pipe || error == boost::system::errc::connection_reset;
}

}  // namespace

Client::Client(std::string socket_path, Timeouts timeouts)
    : path_(std::move(socket_path)), timeouts_(timeouts) {}

Result<Response> Client::request(Verb verb, std::string_view endpoint, std::string_view body,
                                 std::span<const UniqueFd> fds) const {
  VMMD_ASSIGN(UniqueFd fd, connect_to(path_, timeouts_.connect));
  Stream stream(std::move(fd));
  stream.expires_at(after(timeouts_.answer));
  stream.sends(fds);
  ErrorCodeOfBoost error;
  auto request = make_request(verb, endpoint, body);
  http::write(stream, request, error);
  if (error && !answered_early(error)) return broken(error, path_, "send to");

  boost::beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(kBodyLimit);
  http::read(stream, buffer, parser, error);
  if (error) return broken(error, path_, "read from");
  auto& message = parser.get();
  if (message.result_int() >= 300)
    return tl::make_unexpected(error_from_json(message.result_int(), message.body()));
  return Response{message.result_int(), std::move(message.body())};
}

namespace {

/// Cuts a stream of bytes into the events' data. Comments, ids and empty lines are not for the callback.
class LineCutter {
 public:
  /// False: the callback wants no more, or (`too_long`) the line never ends.
  bool feed(std::string_view bytes, const std::function<bool(std::string_view)>& on_event) {
    constexpr std::string_view kData = "data: ";
    line_ += bytes;
    std::size_t start = 0;
    for (auto end = line_.find('\n'); end != std::string::npos; end = line_.find('\n', start)) {
      std::string_view line(line_.data() + start, end - start);
      start = end + 1;
      if (line.starts_with(kData) && !on_event(line.substr(kData.size()))) return false;
    }
    line_.erase(0, start);
    return line_.size() <= kLineLimit;
  }
  [[nodiscard]] bool too_long() const { return line_.size() > kLineLimit; }

 private:
  std::string line_;
};

}  // namespace

Status Client::events(const std::function<bool(std::string_view)>& on_event,
                      const EventOptions& options) const {
  VMMD_ASSIGN(UniqueFd fd, connect_to(path_, timeouts_.connect));
  Stream stream(std::move(fd));
  stream.expires_at(after(timeouts_.answer));
  stream.stops_at(options.stop_fd);
  ErrorCodeOfBoost error;
  const std::string target = options.since ? fmt::format("events?since={}", *options.since) : "events";
  auto request = make_request(Verb::Get, target, {});
  http::write(stream, request, error);
  if (error == asio::error::operation_aborted) return {};
  if (error && !answered_early(error)) return broken(error, path_, "send to");

  boost::beast::flat_buffer buffer;
  http::response_parser<http::buffer_body> parser;
  parser.body_limit(boost::none);
  http::read_header(stream, buffer, parser, error);
  if (error == asio::error::operation_aborted) return {};
  if (error) return broken(error, path_, "read from");
  const unsigned status = parser.get().result_int();
  if (status == 200) {
    stream.expires_at(Clock::time_point::max());
    if (options.on_open && !options.on_open()) return {};
  }

  LineCutter lines;
  std::string refusal;
  char chunk[16 << 10];
  while (!parser.is_done()) {
    parser.get().body().data = chunk;
    parser.get().body().size = sizeof chunk;
    http::read_some(stream, buffer, parser, error);
    if (error == http::error::need_buffer) error = {};
    const std::string_view bytes(chunk, sizeof chunk - parser.get().body().size);
    if (status != 200) {
      refusal += bytes;
      if (refusal.size() > kLineLimit) break;
    } else if (!lines.feed(bytes, on_event)) {
      if (lines.too_long())
        return fail(ErrorCode::TooLarge, "an event of {} has more than {} bytes", path_, kLineLimit);
      return {};
    }
    if (error == asio::error::operation_aborted) return {};
    if (error) return broken(error, path_, "read from");
  }
  if (status != 200) return tl::make_unexpected(error_from_json(status, refusal));
  return {};
}

}  // namespace vmmd::api
