#include "tests/unit/api/server_fixture.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cctype>
#include <cstring>
#include <stdexcept>

#include <fmt/format.h>

namespace vmmd::api::testing {

Result<std::shared_ptr<const VmInfo>> FakeService::info() const {
  const std::scoped_lock lock(mutex_);
  if (!info_) return fail(ErrorCode::NotFound, "there is no VM");
  return info_;
}

Result<Counters> FakeService::counters() const {
  return Counters{{"disk0", {{"read_ops", 258}}}};
}

void FakeService::called(std::string what, Finish finish) {
  {
    const std::scoped_lock lock(mutex_);
    calls_.push_back(std::move(what));
    if (hold_) held_.push_back(std::move(finish));
    changed_.notify_all();
    if (hold_) return;
  }
  finish(std::nullopt);
}

namespace {

auto plain(Done<void> done, PassedFds fds = {}) {
  auto held = std::make_shared<PassedFds>(std::move(fds));
  return [done = std::move(done), held](std::optional<Error> error) {
    held->clear();
    if (error) {
      done(tl::make_unexpected(std::move(*error)));
    } else {
      done({});
    }
  };
}

std::string with(const PassedFds& fds) {
  return fds.empty() ? "" : fmt::format(" with {} descriptors", fds.size());
}

}  // namespace

void FakeService::create(VmConfig config, PassedFds fds, Done<void> done) {
  std::string what = "create " + config.payload.kernel.value_or("") + with(fds);
  called(std::move(what), plain(std::move(done), std::move(fds)));
}

void FakeService::command(Command command, Done<void> done) {
  called(std::string(to_string(command)), plain(std::move(done)));
}

std::string FakeService::snapshot(SnapshotRequest request, Done<SnapshotResult> done) {
  called("snapshot " + request.destination_url, [done = std::move(done)](std::optional<Error> error) {
    if (error) {
      done(tl::make_unexpected(std::move(*error)));
    } else {
      done(SnapshotResult{"0b5a9b34-5f5c-4b8e-9a2e-0a6f4f1c2d3e", "copy", 4096});
    }
  });
  return "snapshot-7";
}

void FakeService::resize(ResizeRequest request, Done<void> done) {
  called("resize " + (request.desired_balloon ? std::to_string(*request.desired_balloon) : "nothing"),
         plain(std::move(done)));
}

void FakeService::resize_disk(ResizeDiskRequest request, Done<void> done) {
  called(fmt::format("resize disk {} {}", request.id, request.desired_size), plain(std::move(done)));
}

void FakeService::restore(RestoreRequest request, PassedFds fds, Done<void> done) {
  std::string what = "restore " + request.source_url + with(fds);
  called(std::move(what), plain(std::move(done), std::move(fds)));
}

void FakeService::cancel(std::string job_id, Done<void> done) {
  called("cancel " + job_id, plain(std::move(done)));
}

void FakeService::set_info(VmInfo info) {
  const std::scoped_lock lock(mutex_);
  info_ = std::make_shared<const VmInfo>(std::move(info));
}

void FakeService::hold() {
  const std::scoped_lock lock(mutex_);
  hold_ = true;
}

std::string FakeService::wait_for_call() {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, std::chrono::seconds(10), [this] { return waited_ < calls_.size(); })) {
    throw std::runtime_error("the Service was not called");
  }
  return calls_[waited_++];
}

void FakeService::answer(std::optional<Error> error) {
  Finish finish;
  {
    const std::scoped_lock lock(mutex_);
    finish = std::move(held_.at(0));
    held_.erase(held_.begin());
  }
  finish(std::move(error));
}

void FakeService::drop() {
  Finish finish;
  const std::scoped_lock lock(mutex_);
  finish = std::move(held_.at(0));
  held_.erase(held_.begin());
}

std::size_t FakeService::calls() const {
  const std::scoped_lock lock(mutex_);
  return calls_.size();
}

TempDir::TempDir() {
  char name[] = "/tmp/vmmd-test-XXXXXX";
  if (::mkdtemp(name) == nullptr) throw std::runtime_error("mkdtemp");
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TempDir::operator/(std::string_view name) const {
  return path_ / name;
}

RawClient::RawClient(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  const timeval patience = {10, 0};
  ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  if (::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    throw std::runtime_error(fmt::format("connect: {}", strerror(errno)));
  }
}

bool RawClient::try_send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t size = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (size < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(size));
  }
  return true;
}

void RawClient::send(std::string_view bytes) {
  if (!try_send(bytes)) throw std::runtime_error(fmt::format("send: {}", strerror(errno)));
}

void RawClient::shutdown_write() {
  ::shutdown(fd_.get(), SHUT_WR);
}

bool RawClient::fill() {
  char chunk[4096];
  const ssize_t size = ::recv(fd_.get(), chunk, sizeof chunk, 0);
  if (size < 0) throw std::runtime_error(fmt::format("recv: {}", strerror(errno)));
  buffer_.append(chunk, static_cast<std::size_t>(size));
  return size != 0;
}

std::string RawClient::line() {
  std::size_t end = 0;
  while ((end = buffer_.find('\n')) == std::string::npos) {
    if (!fill()) throw std::runtime_error("the stream ended inside a line: " + buffer_);
  }
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 1);
  if (line.ends_with('\r')) line.pop_back();
  return line;
}

std::string RawClient::take(std::size_t size) {
  while (buffer_.size() < size) {
    if (!fill()) throw std::runtime_error("the stream ended too early: " + buffer_);
  }
  std::string text = buffer_.substr(0, size);
  buffer_.erase(0, size);
  return text;
}

std::string RawClient::rest() {
  while (fill()) {
  }
  return std::exchange(buffer_, {});
}

bool RawClient::at_end() {
  return buffer_.empty() && !fill();
}

RawResponse RawClient::response() {
  RawResponse response;
  const std::string status = line();
  response.version = status.substr(0, 8);
  response.status = static_cast<unsigned>(std::stoul(status.substr(9, 3)));
  for (std::string header = line(); !header.empty(); header = line()) {
    const auto colon = header.find(':');
    std::string name = header.substr(0, colon);
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    response.headers[name] = header.substr(colon + 2);
  }
  if (const auto length = response.headers.find("content-length"); length != response.headers.end()) {
    response.body = take(std::stoul(length->second));
  }
  return response;
}

std::string get(std::string_view endpoint) {
  return fmt::format("GET /api/v1/{} HTTP/1.1\r\nHost: x\r\n\r\n", endpoint);
}

std::string put(std::string_view endpoint, std::string_view body) {
  return fmt::format("PUT /api/v1/{} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}", endpoint,
                     body.size(), body);
}

ServerFixture::ServerFixture(const ServerLimits& limits) : path(dir / "api.sock") {
  auto socket = bind_api_socket(path);
  if (!socket) throw std::runtime_error(socket.error().to_string());
  socket_ = std::move(*socket);
  auto made = ApiServer::make(socket_.take_listener(), service, events,
                              {"vmmd v1-2-gabc", "1.2.3", 4711, {"kvm"}}, limits);
  if (!made) throw std::runtime_error(made.error().to_string());
  server = std::move(*made);
  thread_ = std::thread([this] { server->run(); });
}

ServerFixture::~ServerFixture() {
  stop_and_join();
}

void ServerFixture::stop_and_join() {
  if (server) server->stop();
  if (thread_.joinable()) thread_.join();
}

}  // namespace vmmd::api::testing
