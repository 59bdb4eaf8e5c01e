// Descriptors that come with requests: which request gets them, and that all others are closed.

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "api/client.h"
#include "api/passed_fds.h"
#include "tests/unit/api/server_fixture.h"

namespace vmmd::api::testing {

namespace {

/// Its writing end is what tests pass: the reading end tells when nobody has it open any more.
class Pipe {
 public:
  Pipe() {
    std::array<int, 2> ends{};
    REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
    reader_.reset(ends[0]);
    writer_.reset(ends[1]);
  }

  /// So many duplicates of the writing end, in one message with these bytes; ours is closed.
  void pass(const RawClient& client, std::string_view bytes, std::size_t count) {
    std::vector<UniqueFd> fds;
    for (std::size_t i = 0; i < count; ++i) fds.emplace_back(::fcntl(writer_.get(), F_DUPFD_CLOEXEC, 0));
    const auto size = send_with_fds(client.fd(), std::as_bytes(std::span(bytes)), fds);
    REQUIRE(size == static_cast<ssize_t>(bytes.size()));
  }
  void close_ours() { writer_.reset(); }
  /// Whether nobody has the writing end open; waits so long for that.
  [[nodiscard]] bool closed_everywhere(std::chrono::milliseconds patience = {}) {
    writer_.reset();
    pollfd entry = {reader_.get(), POLLIN, 0};
    return ::poll(&entry, 1, static_cast<int>(patience.count())) == 1 && (entry.revents & POLLHUP) != 0;
  }

 private:
  UniqueFd reader_;
  UniqueFd writer_;
};

constexpr std::chrono::milliseconds kPatience{10'000};

std::string create() {
  return put("vm.create", R"({"payload": {"kernel": "/k"}})");
}

std::string text_of(const RawResponse& response) {
  return fmt::format("{} {}", response.status, response.body);
}

}  // namespace

TEST_CASE("descriptors come with the request whose bytes carry them, and are closed when nobody keeps them") {
  ServerFixture fixture;
  fixture.service.hold();
  RawClient client = fixture.connect();
  Pipe pipe;
  pipe.pass(client, create(), 3);
  CHECK(fixture.service.wait_for_call() == "create /k with 3 descriptors");
  CHECK_FALSE(pipe.closed_everywhere());
  fixture.service.answer();
  CHECK(client.response().status == 204);
  CHECK(pipe.closed_everywhere());
}

TEST_CASE("descriptors may come with any piece of a request, and with several") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  Pipe pipe;
  const std::string request = put("vm.restore", R"({"source_url": "file:///s"})");
  const auto in_body = request.size() - 5;
  pipe.pass(client, request.substr(0, 1), 1);
  client.send(request.substr(1, 9));
  pipe.pass(client, request.substr(10, in_body - 10), 2);
  pipe.pass(client, request.substr(in_body), 1);
  CHECK(client.response().status == 204);
  CHECK(fixture.service.wait_for_call() == "restore file:///s with 4 descriptors");
}

TEST_CASE("a request on a kept connection gets none of the descriptors of the one before") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  Pipe first;
  Pipe second;
  first.pass(client, create(), 1);
  CHECK(client.response().status == 204);
  client.send(create());
  CHECK(client.response().status == 204);
  second.pass(client, create(), 2);
  CHECK(client.response().status == 204);
  CHECK(fixture.service.wait_for_call() == "create /k with 1 descriptors");
  CHECK(fixture.service.wait_for_call() == "create /k");
  CHECK(fixture.service.wait_for_call() == "create /k with 2 descriptors");
  CHECK(first.closed_everywhere());
}

TEST_CASE("of pipelined requests each gets what its own message carries, however they are read") {
  ServerFixture fixture;
  fixture.service.hold();
  RawClient client = fixture.connect();
  Pipe pipe;
  // While the first waits, the others are read together: a read ends behind the bytes that carry descriptors.
  client.send(create());
  CHECK(fixture.service.wait_for_call() == "create /k");
  client.send(create());
  pipe.pass(client, create(), 2);
  client.send(create());
  for (const char* call : {"create /k", "create /k with 2 descriptors", "create /k"}) {
    fixture.service.answer();
    CHECK(client.response().status == 204);
    CHECK(fixture.service.wait_for_call() == call);
  }
  fixture.service.answer();
  CHECK(client.response().status == 204);
  CHECK(pipe.closed_everywhere());
}

TEST_CASE("a request that takes no descriptors refuses them, and the connection goes on") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  for (const std::string& request : {get("vmm.ping"), put("vm.pause"), get("events"), get("nothing.there")}) {
    Pipe pipe;
    pipe.pass(client, request, 2);
    const RawResponse answer = client.response();
    if (request.find("nothing.there") == std::string::npos) {
      CHECK(answer.status == 400);
      CHECK(answer.body.find("it takes no descriptors; 2 came with it") != std::string::npos);
    } else {
      CHECK(answer.status == 404);
    }
    CHECK(pipe.closed_everywhere());
  }
  client.send(get("vmm.ping"));
  CHECK(client.response().status == 200);
  CHECK(fixture.service.calls() == 0);
}

TEST_CASE("a body that is refused closes its descriptors") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  Pipe pipe;
  pipe.pass(client, put("vm.create", R"({"payload": 7})"), 5);
  CHECK(client.response().status == 400);
  CHECK(pipe.closed_everywhere());
  CHECK(fixture.service.calls() == 0);
}

TEST_CASE("as many descriptors as one message can carry are taken, one more is refused") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  Pipe taken;
  taken.pass(client, create(), kMaxPassedFds);
  CHECK(client.response().status == 204);
  CHECK(fixture.service.wait_for_call() == fmt::format("create /k with {} descriptors", kMaxPassedFds));
  Pipe flood;
  const std::string request = create();
  flood.pass(client, request.substr(0, 10), kMaxPassedFds);
  flood.pass(client, request.substr(10), 1);
  const RawResponse answer = client.response();
  INFO(text_of(answer));
  CHECK(answer.status == 400);
  CHECK(answer.body.find("more than 253 descriptors") != std::string::npos);
  CHECK(client.at_end());
  CHECK(flood.closed_everywhere());
  CHECK(fixture.service.calls() == 1);
}

TEST_CASE("a client that goes on sending descriptors after its last answer holds none open") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send("nonsense\r\n\r\n");
  CHECK(client.response().status == 400);
  Pipe pipe;
  pipe.pass(client, "more", 100);
  client.shutdown_write();
  CHECK(client.at_end());
  CHECK(pipe.closed_everywhere(kPatience));
}

TEST_CASE("descriptors of a request that never becomes whole are closed") {
  ServerLimits limits;
  limits.transfer = std::chrono::milliseconds(50);
  ServerFixture fixture(limits);
  SUBCASE("because its client is too slow") {
    RawClient client = fixture.connect();
    Pipe pipe;
    pipe.pass(client, create().substr(0, 20), 3);
    CHECK(client.response().status == 408);
    CHECK(pipe.closed_everywhere());
  }
  SUBCASE("because its client says so") {
    RawClient client = fixture.connect();
    Pipe pipe;
    pipe.pass(client, create().substr(0, 20), 3);
    client.shutdown_write();
    CHECK(client.response().status == 400);
    CHECK(pipe.closed_everywhere());
  }
  SUBCASE("because its client is gone") {
    RawClient client = fixture.connect();
    Pipe pipe;
    pipe.pass(client, create().substr(0, 20), 3);
    client.close();
    CHECK(pipe.closed_everywhere(kPatience));
  }
}

TEST_CASE("descriptors that cannot be opened here are an error of their request") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send(get("vmm.ping"));  // the server has what it needs
  CHECK(client.response().status == 200);
  const std::string request = create();
  std::vector<UniqueFd> fds;
  for (int i = 0; i < 8; ++i) fds.emplace_back(::fcntl(client.fd(), F_DUPFD_CLOEXEC, 0));
  // They would be opened in this process, whose lowest free number is then the first that is too high.
  rlimit before = {};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  rlimit tight = before;
  const UniqueFd next(::fcntl(client.fd(), F_DUPFD_CLOEXEC, 0));
  tight.rlim_cur = static_cast<rlim_t>(next.get()) + 1;
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &tight) == 0);
  const auto sent = send_with_fds(client.fd(), std::as_bytes(std::span(request)), fds);
  const RawResponse answer = client.response();
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
  CHECK(sent == static_cast<ssize_t>(request.size()));
  INFO(text_of(answer));
  CHECK(answer.status == 500);
  CHECK(answer.body.find("may not open more files") != std::string::npos);
  CHECK(fixture.service.calls() == 0);
}

TEST_CASE("the client sends descriptors with its request") {
  ServerFixture fixture;
  const Client client(fixture.path);
  std::vector<UniqueFd> fds;
  for (int i = 0; i < 2; ++i) fds.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  // Longer than one write, so that the rest goes without them.
  const std::string body = R"({"payload": {"kernel": "/k", "cmdline": ")" + std::string(3000, 'x') + R"("}})";
  REQUIRE(client.request(Verb::Put, "vm.create", body, fds));
  CHECK(fixture.service.wait_for_call() == "create /k with 2 descriptors");
}

}  // namespace vmmd::api::testing
