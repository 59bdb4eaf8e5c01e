#include "api/client.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tests/unit/api/server_fixture.h"

namespace vmmd::api::testing {

namespace {

/// Answers one connection with fixed bytes, whatever it sends, then closes.
class CannedServer {
 public:
  explicit CannedServer(std::string answer) : path(dir_ / "s") {
    auto socket = bind_api_socket(path);
    listener_ = socket->take_listener();
    const int flags = ::fcntl(listener_.get(), F_GETFL);
    ::fcntl(listener_.get(), F_SETFL, flags & ~O_NONBLOCK);
    kept_ = std::move(*socket);
    thread_ = std::thread([this, text = std::move(answer)] {
      const UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      char chunk[4096];
      (void)::recv(fd.get(), chunk, sizeof chunk, 0);
      (void)::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
      ::shutdown(fd.get(), SHUT_WR);
      while (::recv(fd.get(), chunk, sizeof chunk, 0) > 0) {
      }
    });
  }
  ~CannedServer() { thread_.join(); }

 private:
  TempDir dir_;

 public:
  const std::string path;

 private:
  ApiSocket kept_;
  UniqueFd listener_;
  std::thread thread_;
};

}  // namespace

TEST_CASE("the client gives back status and body") {
  ServerFixture fixture;
  const Client client(fixture.path);
  const auto ping = client.request(Verb::Get, "vmm.ping");
  REQUIRE(ping.has_value());
  CHECK(ping->status == 200);
  CHECK(ping->body.find("\"pid\":4711") != std::string::npos);
  const auto boot = client.request(Verb::Put, "vm.boot");
  REQUIRE(boot.has_value());
  CHECK(boot->status == 204);
  CHECK(boot->body.empty());
  const auto restore = client.request(Verb::Put, "/api/v1/vm.restore", R"({"source_url":"file:///s"})");
  CHECK(restore.has_value());
}

TEST_CASE("an error of the server comes back with its code and messages") {
  ServerFixture fixture;
  const auto info = Client(fixture.path).request(Verb::Get, "vm.info");
  REQUIRE_FALSE(info.has_value());
  CHECK(info.error().code == ErrorCode::NotFound);
  CHECK(info.error().messages == std::vector<std::string>{"vm.info failed", "there is no VM"});
}

TEST_CASE("without a daemon the client names the path and asks whether it runs") {
  const TempDir dir;
  const std::string path = dir / "none";
  const auto nowhere = Client(path).request(Verb::Get, "vmm.ping");
  REQUIRE_FALSE(nowhere.has_value());
  CHECK(nowhere.error().messages[0].find(path) != std::string::npos);
  CHECK(nowhere.error().messages[0].find("is vmmd running?") != std::string::npos);

  const std::string stale = dir / "stale";
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  stale.copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  const auto refused = Client(stale).request(Verb::Get, "vmm.ping");
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().messages[0].find("is vmmd running?") != std::string::npos);
}

TEST_CASE("a path too long for a socket is an error, not a shorter path") {
  const auto result = Client(std::string(108, 'a')).request(Verb::Get, "vmm.ping");
  REQUIRE_FALSE(result.has_value());
  CHECK(result.error().code == ErrorCode::BadRequest);
}

TEST_CASE("a daemon that does not answer in time is an error") {
  ServerFixture fixture;
  fixture.service.hold();
  ClientTimeouts timeouts;
  timeouts.answer = std::chrono::milliseconds(30);
  const auto result = Client(fixture.path, timeouts).request(Verb::Put, "vm.boot");
  REQUIRE_FALSE(result.has_value());
  CHECK(result.error().messages[0].find("did not answer in time") != std::string::npos);
}

TEST_CASE("a request refused while its body is still being sent ends in the server's error") {
  ServerFixture fixture;
  const auto result = Client(fixture.path).request(Verb::Put, "vm.create", std::string(8 << 20, ' '));
  REQUIRE_FALSE(result.has_value());
  CHECK(result.error().code == ErrorCode::TooLarge);
}

TEST_CASE("a daemon that dies before its answer is complete is an error") {
  for (const char* bytes : {"", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"}) {
    CannedServer server(bytes);
    const auto result = Client(server.path).request(Verb::Get, "vmm.ping");
    REQUIRE_FALSE(result.has_value());
    CHECK(result.error().messages[0].find(server.path) != std::string::npos);
    CHECK(result.error().messages[0].find("closed the connection") != std::string::npos);
  }
}

TEST_CASE("an answer that is not HTTP is an error") {
  CannedServer server("SSH-2.0-OpenSSH_9.2\r\n");
  const auto result = Client(server.path).request(Verb::Get, "vmm.ping");
  REQUIRE_FALSE(result.has_value());
  CHECK(result.error().code == ErrorCode::Internal);
}

TEST_CASE("events come one by one until the callback has enough") {
  ServerFixture fixture;
  for (const char* name : {"one", "two", "three"}) fixture.events.publish("vm", name);
  std::vector<std::string> seen;
  const auto status = Client(fixture.path)
                          .events(
                              [&](std::string_view line) {
                                seen.emplace_back(line);
                                return seen.size() < 2;
                              },
                              1);
  REQUIRE(status.has_value());
  REQUIRE(seen.size() == 2);
  CHECK(seen[0].find("\"sequence\":2") != std::string::npos);
  CHECK(seen[1].ends_with("}"));
}

TEST_CASE("events end well when the daemon stops") {
  ServerFixture fixture;
  fixture.events.publish("vm", "one");
  bool first = true;
  const auto status = Client(fixture.path)
                          .events(
                              [&](std::string_view) {
                                if (std::exchange(first, false)) fixture.server->stop();
                                return true;
                              },
                              0);
  CHECK(status.has_value());
  CHECK_FALSE(first);
}

TEST_CASE("events that a daemon refuses are its error") {
  ServerLimits limits;
  limits.connections = 0;
  ServerFixture fixture(limits);
  const auto status = Client(fixture.path).events([](std::string_view) { return true; });
  REQUIRE_FALSE(status.has_value());
  CHECK(status.error().messages[0].find("too many connections") != std::string::npos);
}

TEST_CASE("an event stream that breaks off is an error") {
  CannedServer server("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata:");
  const auto status = Client(server.path).events([](std::string_view) { return true; });
  REQUIRE_FALSE(status.has_value());
  CHECK(status.error().messages[0].find("closed the connection") != std::string::npos);
}

}  // namespace vmmd::api::testing
