#include <poll.h>

#include <chrono>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tests/unit/api/server_fixture.h"

namespace vmmd::api::testing {

namespace {

using std::chrono::milliseconds;

ServerLimits small() {
  ServerLimits limits;
  limits.header_bytes = 512;
  limits.body_bytes = 1000;
  return limits;
}

}  // namespace

TEST_CASE("a header at the limit passes, one beyond it is 413") {
  ServerFixture fixture(small());
  const std::string start = "GET /api/v1/vmm.ping HTTP/1.1\r\nX: ";
  const auto request = [&](std::size_t size) {
    return start + std::string(size - start.size() - 4, 'x') + "\r\n\r\n";
  };
  RawClient fits = fixture.connect();
  fits.send(request(512));
  CHECK(fits.response().status == 200);

  RawClient client = fixture.connect();
  client.send(request(600));
  const RawResponse response = client.response();
  CHECK(response.status == 413);
  CHECK(response.body == R"(["the request's header is longer than 512 bytes"])");
  CHECK(client.at_end());
}

TEST_CASE("a header that never ends is cut off") {
  ServerFixture fixture(small());
  RawClient client = fixture.connect();
  client.send("GET /api/v1/vmm.ping HTTP/1.1\r\n");
  for (int i = 0; i < 1000; ++i) {
    if (!client.try_send("A: b\r\n")) break;
  }
  CHECK(client.response().status == 413);
}

TEST_CASE("a body at the limit passes, a declared one beyond it is 413 before it is read") {
  ServerFixture fixture(small());
  RawClient client = fixture.connect();
  client.send(put("vm.boot", std::string(1000, ' ')));
  CHECK(client.response().status == 204);
  client.send("PUT /api/v1/vm.boot HTTP/1.1\r\nContent-Length: 1001\r\n\r\n");
  CHECK(client.response().status == 413);
  CHECK(client.at_end());
  CHECK(fixture.service.calls() == 1);
}

TEST_CASE("a client that waits for 100 Continue with too long a body gets 413 instead") {
  ServerFixture fixture(small());
  RawClient client = fixture.connect();
  client.send(
      "PUT /api/v1/vm.boot HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 18446744073709551615\r\n\r\n");
  CHECK(client.response().status == 413);
}

TEST_CASE("the answer of 413 arrives although the client goes on sending") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send("PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 5000000\r\n\r\n");
  const std::string block(100'000, ' ');
  for (int i = 0; i < 50; ++i) client.send(block);
  CHECK(client.response().status == 413);
  CHECK(client.at_end());
}

TEST_CASE("chunks that add up to more than the limit are 413") {
  ServerFixture fixture(small());
  RawClient client = fixture.connect();
  client.send("PUT /api/v1/vm.boot HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
  const std::string chunk = "1f4\r\n" + std::string(500, ' ') + "\r\n";
  client.send(chunk + chunk + "1\r\n \r\n0\r\n\r\n");
  CHECK(client.response().status == 413);
  CHECK(fixture.service.calls() == 0);
}

TEST_CASE("a chunk extension that never ends is cut off") {
  ServerFixture fixture(small());
  RawClient client = fixture.connect();
  client.send("PUT /api/v1/vm.boot HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;");
  (void)client.try_send(std::string(100'000, 'x'));
  CHECK(client.response().status == 413);
}

TEST_CASE("an idle connection is closed after the idle time-out") {
  ServerLimits limits;
  limits.idle = milliseconds(30);
  ServerFixture fixture(limits);
  RawClient silent = fixture.connect();
  RawClient used = fixture.connect();
  used.send(get("vmm.ping"));
  CHECK(used.response().status == 200);
  CHECK(silent.at_end());
  CHECK(used.at_end());
}

TEST_CASE("a request that does not get complete is 408 after the transfer time-out") {
  ServerLimits limits;
  limits.transfer = milliseconds(30);
  ServerFixture fixture(limits);
  for (const char* bytes : {"G", "GET /api/v1/vmm.ping HTTP/1.1\r\nHost",
                            "PUT /api/v1/vm.boot HTTP/1.1\r\nContent-Length: 5\r\n\r\n{"}) {
    RawClient client = fixture.connect();
    client.send(bytes);
    CHECK(client.response().status == 408);
    CHECK(client.at_end());
  }
}

TEST_CASE("the transfer time-out does not hit a command that takes its time") {
  ServerLimits limits;
  limits.transfer = milliseconds(20);
  limits.idle = milliseconds(40);
  ServerFixture fixture(limits);
  fixture.service.hold();
  RawClient client = fixture.connect();
  client.send(put("vm.pause"));
  fixture.service.wait_for_call();
  // Another connection's idle time-out began later and is the longer one: when it is over, so is ours.
  CHECK(fixture.connect().at_end());
  fixture.service.answer();
  CHECK(client.response().status == 204);
}

TEST_CASE("a client that does not read its answers is dropped after the transfer time-out") {
  ServerLimits limits;
  limits.transfer = milliseconds(50);
  ServerFixture fixture(limits);
  VmInfo info;
  info.config.payload.cmdline = std::string(1 << 20, 'c');
  fixture.service.set_info(info);
  RawClient client = fixture.connect();
  client.send(get("vm.info"));
  RawClient watcher = fixture.connect();
  // The answer is larger than the socket's buffers; the server has given up when the stream ends early.
  watcher.send(get("vmm.ping"));
  CHECK(watcher.response().status == 200);
  std::string text;
  for (;;) {
    pollfd entry = {client.fd(), 0, 0};
    REQUIRE(::poll(&entry, 1, 10'000) == 1);
    if ((entry.revents & POLLHUP) != 0) break;
  }
  text = client.rest();
  CHECK(text.starts_with("HTTP/1.1 200"));
  CHECK(text.size() < (1 << 20));
}

TEST_CASE("the connection beyond the limit gets 503, and when one leaves the next is served again") {
  ServerLimits limits;
  limits.connections = 2;
  ServerFixture fixture(limits);
  std::vector<RawClient> clients;
  for (int i = 0; i < 2; ++i) {
    clients.push_back(fixture.connect());
    clients.back().send(get("vmm.ping"));
    CHECK(clients.back().response().status == 200);
  }
  RawClient third = fixture.connect();
  const RawResponse refused = third.response();
  CHECK(refused.status == 503);
  CHECK(refused.headers.at("connection") == "close");
  CHECK(third.at_end());

  // The server says that it has seen the end by ending too.
  clients[0].shutdown_write();
  CHECK(clients[0].at_end());
  RawClient fourth = fixture.connect();
  fourth.send(get("vmm.ping"));
  CHECK(fourth.response().status == 200);
}

TEST_CASE("a client that hangs up during a long command frees its place") {
  ServerLimits limits;
  limits.connections = 2;
  ServerFixture fixture(limits);
  fixture.service.hold();
  RawClient other = fixture.connect();
  {
    RawClient client = fixture.connect();
    client.send(put("vm.snapshot", R"({"destination_url":"file:///d","cancel_on_disconnect":true})"));
    fixture.service.wait_for_call();
  }
  CHECK(fixture.service.wait_for_call() == "cancel snapshot-7");
  // The server closes the connection on the same turn as it cancels; this one comes after it.
  other.send(get("vmm.ping"));
  CHECK(other.response().status == 200);
  RawClient next = fixture.connect();
  next.send(get("vmm.ping"));
  CHECK(next.response().status == 200);
}

TEST_CASE("many refused clients do not hold the server up") {
  ServerLimits limits;
  limits.connections = 1;
  ServerFixture fixture(limits);
  RawClient only = fixture.connect();
  only.send(get("vmm.ping"));
  CHECK(only.response().status == 200);
  std::vector<RawClient> refused;
  for (int i = 0; i < 100; ++i) refused.push_back(fixture.connect());
  only.send(get("vmm.ping"));
  CHECK(only.response().status == 200);
}

}  // namespace vmmd::api::testing
