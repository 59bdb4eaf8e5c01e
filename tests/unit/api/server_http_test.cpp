#include <future>
#include <thread>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tests/unit/api/server_fixture.h"

namespace vmmd::api::testing {

TEST_CASE("ping answers with the daemon's version and the headers of every answer") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send(get("vmm.ping"));
  const RawResponse response = client.response();
  CHECK(response.status == 200);
  CHECK(response.headers.at("server") == "vmmd");
  CHECK(response.headers.at("content-type") == "application/json");
  CHECK(response.body ==
        R"({"build_version":"vmmd v1-2-gabc","version":"1.2.3","pid":4711,"features":["kvm"]})");
}

TEST_CASE("a command answers 204 without a body and without a Content-Length") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send(put("vm.boot"));
  const RawResponse response = client.response();
  CHECK(response.status == 204);
  CHECK(response.headers.at("server") == "vmmd");
  CHECK(response.headers.at("content-type") == "application/json");
  CHECK_FALSE(response.headers.contains("content-length"));
  CHECK(fixture.service.wait_for_call() == "vm.boot");
}

TEST_CASE("every command of the table reaches the Service under its own name") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  std::size_t commands = 0;
  for (const Endpoint& endpoint : endpoints()) {
    if (endpoint.action != Action::RunCommand) continue;
    ++commands;
    client.send(put(endpoint.path));
    CHECK(client.response().status == 204);
    CHECK(fixture.service.wait_for_call() == endpoint.path);
  }
  CHECK(commands == 9);
}

TEST_CASE("a failed command answers its code and an array, outermost message first") {
  ServerFixture fixture;
  fixture.service.hold();
  RawClient client = fixture.connect();
  client.send(put("vm.pause"));
  fixture.service.wait_for_call();
  fixture.service.answer(
      Error{ErrorCode::WrongState, {"the VM is Paused", "only a Running VM can be paused"}});
  const RawResponse response = client.response();
  CHECK(response.status == 405);
  CHECK(response.body == R"(["vm.pause failed","the VM is Paused","only a Running VM can be paused"])");
  CHECK_FALSE(response.headers.contains("allow"));
}

TEST_CASE("a command that the Service forgets is answered with 500") {
  ServerFixture fixture;
  fixture.service.hold();
  RawClient client = fixture.connect();
  client.send(put("vm.pause"));
  fixture.service.wait_for_call();
  fixture.service.drop();
  CHECK(client.response().status == 500);
}

TEST_CASE("vm.info is 404 without a VM and its JSON with one") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send(get("vm.info"));
  const RawResponse missing = client.response();
  CHECK(missing.status == 404);
  CHECK(missing.body == R"(["vm.info failed","there is no VM"])");

  VmInfo info;
  info.state = VmState::Paused;
  fixture.service.set_info(info);
  client.send(get("vm.info"));
  const RawResponse response = client.response();
  CHECK(response.status == 200);
  CHECK(response.body == to_json(info));
}

TEST_CASE("counters, create, restore and cancel reach the Service with what was sent") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send(get("vm.counters"));
  CHECK(client.response().body == R"({"disk0":{"read_ops":258}})");
  client.send(put("vm.create", R"({"payload":{"kernel":"/k"}})"));
  CHECK(client.response().status == 204);
  CHECK(fixture.service.wait_for_call() == "create /k");
  client.send(put("vm.restore", R"({"source_url":"file:///s"})"));
  CHECK(client.response().status == 204);
  CHECK(fixture.service.wait_for_call() == "restore file:///s");
  client.send(put("vm.resize", R"({"desired_balloon":4096})"));
  CHECK(fixture.service.wait_for_call() == "resize 4096");
  CHECK(client.response().status == 204);
  client.send(put("vm.resize-disk", R"({"id":"root","desired_size":8192})"));
  CHECK(fixture.service.wait_for_call() == "resize disk root 8192");
  CHECK(client.response().status == 204);
  client.send(put("vm.cancel", R"({"id":"snapshot-1"})"));
  CHECK(client.response().status == 204);
  CHECK(fixture.service.wait_for_call() == "cancel snapshot-1");
}

TEST_CASE("a snapshot answers as Cloud Hypervisor does, unless a field of ours was used") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send(put("vm.snapshot", R"({"destination_url":"file:///d"})"));
  CHECK(client.response().status == 204);
  client.send(put("vm.snapshot", R"({"destination_url":"file:///d","pause":false})"));
  const RawResponse response = client.response();
  CHECK(response.status == 200);
  CHECK(response.body.find("0b5a9b34-5f5c-4b8e-9a2e-0a6f4f1c2d3e") != std::string::npos);
}

TEST_CASE("a body that does not parse is 400 and does not reach the Service") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  for (const char* endpoint :
       {"vm.create", "vm.snapshot", "vm.restore", "vm.cancel", "vm.resize", "vm.resize-disk"}) {
    client.send(put(endpoint, "{\"a\":"));
    const RawResponse response = client.response();
    CHECK(response.status == 400);
    CHECK(response.body.starts_with(fmt::format("[\"{} failed\",", endpoint)));
    client.send(put(endpoint));
    CHECK(client.response().status == 400);
  }
  CHECK(fixture.service.calls() == 0);
}

TEST_CASE("a command takes an empty body, and nothing else") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  for (const char* body : {"", "{}", " {\r\n\t} ", "\n"}) {
    client.send(put("vm.boot", body));
    CHECK(client.response().status == 204);
  }
  CHECK(fixture.service.calls() == 4);
  for (const char* body : {"null", "{", "{}{}", "{\"a\":1}", "x"}) {
    client.send(put("vm.boot", body));
    CHECK(client.response().status == 400);
  }
  CHECK(fixture.service.calls() == 4);
}

TEST_CASE("a path nobody knows is 404") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  for (const char* target : {"/", "/api/v1/vm.nothing", "/api/v2/vmm.ping", "/api/v1/vmm.ping/", "*"}) {
    client.send(fmt::format("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", target));
    const RawResponse response = client.response();
    CHECK(response.status == 404);
    CHECK(response.body.starts_with("[\"no such endpoint: "));
  }
}

TEST_CASE("the wrong verb is 405 and names the right one") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send("PUT /api/v1/vm.info HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
  RawResponse response = client.response();
  CHECK(response.status == 405);
  CHECK(response.headers.at("allow") == "GET");
  for (const char* verb : {"GET", "POST", "DELETE", "BREW"}) {
    client.send(fmt::format("{} /api/v1/vm.boot HTTP/1.1\r\nHost: x\r\n\r\n", verb));
    response = client.response();
    CHECK(response.status == 405);
    CHECK(response.headers.at("allow") == "PUT");
  }
  CHECK(fixture.service.calls() == 0);
}

TEST_CASE("HEAD gets headers and no body") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send("HEAD /api/v1/vmm.ping HTTP/1.1\r\nHost: x\r\n\r\n" + get("vmm.ping"));
  CHECK(client.response().status == 405);
  CHECK(client.response().status == 200);
}

TEST_CASE("what Cloud Hypervisor has and we do not is 501 and says what is missing") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send(put("vm.send-migration", R"({"destination_url":"unix:/x"})"));
  const RawResponse response = client.response();
  CHECK(response.status == 501);
  CHECK(response.body == R"(["vm.send-migration failed","live migration is not built yet"])");
}

TEST_CASE("query and absolute form name the same endpoint") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send("GET /api/v1/vmm.ping?a=b HTTP/1.1\r\nHost: x\r\n\r\n");
  CHECK(client.response().status == 200);
  client.send("GET http://localhost/api/v1/vmm.ping HTTP/1.1\r\nHost: x\r\n\r\n");
  CHECK(client.response().status == 200);
}

TEST_CASE("pipelined requests are answered in order, each command after the one before it") {
  ServerFixture fixture;
  fixture.service.hold();
  RawClient client = fixture.connect();
  client.send(put("vm.boot") + put("vm.pause") + get("vmm.ping") + get("vm.nothing"));
  CHECK(fixture.service.wait_for_call() == "vm.boot");
  CHECK(fixture.service.calls() == 1);
  fixture.service.answer();
  CHECK(client.response().status == 204);
  CHECK(fixture.service.wait_for_call() == "vm.pause");
  fixture.service.answer(Error{ErrorCode::Conflict, {"x"}});
  CHECK(client.response().status == 409);
  CHECK(client.response().status == 200);
  CHECK(client.response().status == 404);
}

TEST_CASE("a request may come one byte at a time") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  for (const char c : put("vm.restore", R"({"source_url":"file:///s"})")) client.send({&c, 1});
  CHECK(client.response().status == 204);
  CHECK(fixture.service.wait_for_call() == "restore file:///s");
}

TEST_CASE("a chunked body is put together") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send(
      "PUT /api/v1/vm.restore HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
      "8;ext=1\r\n{\"source\r\n9\r\n_url\":\"fi\r\n9\r\nle:///s\"}\r\n0\r\nTrailer: y\r\n\r\n" +
      get("vmm.ping"));
  CHECK(client.response().status == 204);
  CHECK(fixture.service.wait_for_call() == "restore file:///s");
  CHECK(client.response().status == 200);
}

TEST_CASE("a client that waits for 100 Continue gets it, then its answer") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  const std::string_view body = R"({"source_url":"file:///s"})";
  client.send(fmt::format(
      "PUT /api/v1/vm.restore HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
      body.size()));
  CHECK(client.response().status == 100);
  client.send(body);
  CHECK(client.response().status == 204);
  client.send(get("vmm.ping"));
  CHECK(client.response().status == 200);
}

TEST_CASE("a client that would wait for 100 Continue is refused before it sends its body") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send(
      "PUT /api/v1/vm.nothing HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n");
  CHECK(client.response().status == 404);
  CHECK(client.at_end());
}

TEST_CASE("an expectation nobody knows is 417") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send("PUT /api/v1/vm.boot HTTP/1.1\r\nHost: x\r\nExpect: 200-ok\r\nContent-Length: 0\r\n\r\n");
  CHECK(client.response().status == 417);
  CHECK(fixture.service.calls() == 0);
}

TEST_CASE("HTTP/1.0 is answered in HTTP/1.0 and hung up on") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send("GET /api/v1/vmm.ping HTTP/1.0\r\n\r\n");
  const RawResponse response = client.response();
  CHECK(response.version == "HTTP/1.0");
  CHECK(response.status == 200);
  CHECK(client.at_end());
}

TEST_CASE("HTTP/1.0 with keep-alive goes on") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  for (int i = 0; i < 2; ++i) {
    client.send("GET /api/v1/vmm.ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    CHECK(client.response().headers.at("connection") == "keep-alive");
  }
}

TEST_CASE("Connection: close is obeyed and said") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send("GET /api/v1/vmm.ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  CHECK(client.response().headers.at("connection") == "close");
  CHECK(client.at_end());
}

TEST_CASE("a client that has shut down its writing side still gets a late answer") {
  ServerFixture fixture;
  fixture.service.hold();
  RawClient client = fixture.connect();
  client.send(put("vm.boot"));
  client.shutdown_write();
  fixture.service.wait_for_call();
  fixture.service.answer();
  CHECK(client.response().status == 204);
  CHECK(client.at_end());
}

TEST_CASE("a request cut off by the client's end is 400") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send("PUT /api/v1/vm.boot HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{");
  client.shutdown_write();
  CHECK(client.response().status == 400);
  CHECK(client.at_end());
  CHECK(fixture.service.calls() == 0);
}

TEST_CASE("what is not HTTP is 400 and hung up on") {
  for (const char* bytes :
       {"\x16\x03\x01\x02", "hello\r\n\r\n", "GET / HTTP/2.0\r\n\r\n", "GET /\r\n\r\n",
        " GET / HTTP/1.1\r\n\r\n", "PUT /api/v1/vm.boot HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "PUT /api/v1/vm.boot HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "PUT /api/v1/vm.boot HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "PUT /api/v1/vm.boot HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
    ServerFixture fixture;
    RawClient client = fixture.connect();
    client.send(bytes);
    client.shutdown_write();
    const RawResponse response = client.response();
    CHECK_MESSAGE(response.status == 400, bytes);
    CHECK(client.at_end());
    CHECK(fixture.service.calls() == 0);
  }
}

TEST_CASE("others are served while one connection waits for its command") {
  ServerFixture fixture;
  fixture.service.hold();
  RawClient waiting = fixture.connect();
  waiting.send(put("vm.pause"));
  fixture.service.wait_for_call();
  for (int i = 0; i < 3; ++i) {
    RawClient other = fixture.connect();
    other.send(get("vmm.ping"));
    CHECK(other.response().status == 200);
  }
  fixture.service.answer();
  CHECK(waiting.response().status == 204);
}

TEST_CASE("a client that goes away does not stop its command") {
  ServerFixture fixture;
  fixture.service.hold();
  {
    RawClient client = fixture.connect();
    client.send(put("vm.snapshot", R"({"destination_url":"file:///d"})"));
    fixture.service.wait_for_call();
  }
  RawClient other = fixture.connect();
  other.send(get("vmm.ping"));
  CHECK(other.response().status == 200);
  fixture.service.answer();
  other.send(get("vmm.ping"));
  CHECK(other.response().status == 200);
  CHECK(fixture.service.calls() == 1);
}

TEST_CASE("a snapshot with cancel_on_disconnect is cancelled when its client goes away") {
  ServerFixture fixture;
  fixture.service.hold();
  {
    RawClient client = fixture.connect();
    client.send(put("vm.snapshot", R"({"destination_url":"file:///d","cancel_on_disconnect":true})"));
    CHECK(fixture.service.wait_for_call() == "snapshot file:///d");
  }
  CHECK(fixture.service.wait_for_call() == "cancel snapshot-7");
}

TEST_CASE("a snapshot with cancel_on_disconnect outlives a client that only ends its writing side") {
  ServerFixture fixture;
  fixture.service.hold();
  RawClient client = fixture.connect();
  client.send(put("vm.snapshot", R"({"destination_url":"file:///d","cancel_on_disconnect":true})"));
  client.shutdown_write();
  fixture.service.wait_for_call();
  fixture.service.answer();
  CHECK(client.response().status == 200);
  CHECK(fixture.service.calls() == 1);
}

TEST_CASE("stop lets an answer in progress out, hangs up on the idle and returns") {
  ServerFixture fixture;
  fixture.service.hold();
  RawClient idle = fixture.connect();
  idle.send(get("vmm.ping"));
  CHECK(idle.response().status == 200);
  RawClient busy = fixture.connect();
  busy.send(put("vmm.shutdown"));
  fixture.service.wait_for_call();
  fixture.server->stop();
  CHECK(idle.at_end());
  fixture.service.answer();
  const RawResponse response = busy.response();
  CHECK(response.status == 204);
  CHECK(response.headers.at("connection") == "close");
  CHECK(busy.at_end());
  fixture.stop_and_join();
}

TEST_CASE("stop waits for a command no longer than the drain limit, whose late answer harms nobody") {
  ServerLimits limits;
  limits.drain = std::chrono::milliseconds(20);
  ServerFixture fixture(limits);
  fixture.service.hold();
  RawClient client = fixture.connect();
  client.send(put("vm.pause"));
  fixture.service.wait_for_call();
  fixture.stop_and_join();
  CHECK(client.at_end());
  fixture.server.reset();
  fixture.service.answer();
}

TEST_CASE("post runs a function on the API thread") {
  ServerFixture fixture;
  std::promise<std::thread::id> where;
  fixture.server->post([&] { where.set_value(std::this_thread::get_id()); });
  CHECK(where.get_future().get() != std::this_thread::get_id());
}

}  // namespace vmmd::api::testing
