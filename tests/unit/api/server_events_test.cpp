#include <poll.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tests/unit/api/server_fixture.h"

namespace vmmd::api::testing {

namespace {

/// Reads a chunked stream's text line by line.
class EventClient {
 public:
  explicit EventClient(const ServerFixture& fixture, std::string_view target = "events",
                       std::string_view more = "")
      : client_(fixture.connect()) {
    client_.send(fmt::format("GET /api/v1/{} HTTP/1.1\r\nHost: x\r\n{}\r\n", target, more));
    head = client_.response();
  }

  /// The next line of text, or "<end>" behind the last chunk.
  std::string line() {
    for (;;) {
      if (const auto end = text_.find('\n'); end != std::string::npos) {
        std::string line = text_.substr(0, end);
        text_.erase(0, end + 1);
        return line;
      }
      const std::size_t size = std::stoul(client_.line(), nullptr, 16);
      text_ += client_.take(size);
      CHECK(client_.line().empty());
      if (size == 0) return client_.at_end() ? "<end>" : "<more>";
    }
  }
  /// The next event's JSON; checks its id. Comments and empty lines are skipped.
  std::string event() {
    std::string id;
    for (;;) {
      const std::string text = line();
      if (text.starts_with("id: ")) id = text.substr(4);
      if (!text.starts_with("data: ")) {
        REQUIRE(text != "<end>");
        continue;
      }
      CHECK(std::to_string(nlohmann::json::parse(text.substr(6)).at("sequence").get<std::uint64_t>()) == id);
      return text.substr(6);
    }
  }
  std::string name() { return nlohmann::json::parse(event()).at("event").get<std::string>(); }
  RawClient& raw() { return client_; }

  RawResponse head;

 private:
  RawClient client_;
  std::string text_;
};

}  // namespace

TEST_CASE("the event stream's head comes at once, before any event") {
  ServerFixture fixture;
  EventClient client(fixture);
  CHECK(client.head.status == 200);
  CHECK(client.head.headers.at("content-type") == "text/event-stream");
  CHECK(client.head.headers.at("server") == "vmmd");
  CHECK(client.line() == ": the latest event is 0");
}

TEST_CASE("an event is one line of JSON with its sequence as id") {
  ServerFixture fixture;
  EventClient client(fixture);
  fixture.events.publish("vm", "booted", {{"k", "v\n"}});
  CHECK(client.line() == ": the latest event is 0");
  CHECK(client.line().empty());
  CHECK(client.line() == "id: 1");
  const std::string data = client.line();
  REQUIRE(data.starts_with("data: "));
  const auto json = nlohmann::json::parse(data.substr(6));
  CHECK(json.at("sequence") == 1);
  CHECK(json.at("source") == "vm");
  CHECK(json.at("event") == "booted");
  CHECK(json.at("properties") == nlohmann::json{{"k", "v\n"}});
  CHECK(json.at("timestamp").at("secs").is_number_unsigned());
  CHECK(json.at("wall").at("nanos").is_number_unsigned());
  CHECK(client.line().empty());
}

TEST_CASE("a stream without since starts with the next event") {
  ServerFixture fixture;
  fixture.events.publish("vm", "old");
  EventClient client(fixture);
  fixture.events.publish("vm", "new");
  CHECK(client.name() == "new");
}

TEST_CASE("since resumes behind that event, and Last-Event-ID overrules it") {
  ServerFixture fixture;
  for (const char* name : {"one", "two", "three"}) fixture.events.publish("vm", name);
  EventClient all(fixture, "events?since=0");
  CHECK(all.name() == "one");
  EventClient some(fixture, "events?since=1");
  CHECK(some.name() == "two");
  CHECK(some.name() == "three");
  EventClient header(fixture, "events?since=0", "Last-Event-ID: 2\r\n");
  CHECK(header.name() == "three");
  fixture.events.publish("vm", "four");
  CHECK(some.name() == "four");
  CHECK(header.name() == "four");
}

TEST_CASE("a since that is no number is 400") {
  ServerFixture fixture;
  CHECK(EventClient(fixture, "events?since=x").head.status == 400);
  CHECK(EventClient(fixture, "events?since=-1").head.status == 400);
  CHECK(EventClient(fixture, "events", "Last-Event-ID: 18446744073709551616\r\n").head.status == 400);
}

TEST_CASE("a stream that resumes behind the history says what is forgotten") {
  ServerFixture fixture;
  for (std::size_t i = 0; i < EventBus::kHistory + 2; ++i) fixture.events.publish("vm", "e");
  EventClient client(fixture, "events?since=1");
  CHECK(client.line() == fmt::format(": the latest event is {}", EventBus::kHistory + 2));
  CHECK(client.line().empty());
  CHECK(client.line() == ": events before 3 are forgotten");
  for (std::size_t i = 3; i <= EventBus::kHistory + 2; ++i) {
    CHECK(nlohmann::json::parse(client.event()).at("sequence") == i);
  }
}

TEST_CASE("a stream over HTTP/1.0 is plain text until the end") {
  ServerFixture fixture;
  RawClient client = fixture.connect();
  client.send("GET /api/v1/events HTTP/1.0\r\n\r\n");
  const RawResponse head = client.response();
  CHECK(head.status == 200);
  CHECK_FALSE(head.headers.contains("transfer-encoding"));
  CHECK(client.line() == ": the latest event is 0");
  fixture.events.publish("vm", "booted");
  CHECK(client.line().empty());
  CHECK(client.line() == "id: 1");
  fixture.stop_and_join();
  CHECK(client.rest().ends_with(": the stream ends: the daemon stops\n\n"));
}

TEST_CASE("events that many threads publish arrive complete and in order") {
  ServerFixture fixture;
  EventClient client(fixture);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) fixture.events.publish("vm", "e");
    });
  }
  for (auto& thread : threads) thread.join();
  for (std::uint64_t i = 1; i <= 200; ++i) {
    CHECK(nlohmann::json::parse(client.event()).at("sequence") == i);
  }
}

TEST_CASE("a reader that is too slow loses its stream, with a last word, and nobody waits for it") {
  ServerLimits limits;
  limits.stream_events = 4;
  ServerFixture fixture(limits);
  EventClient slow(fixture);
  CHECK(slow.line().starts_with(": the latest"));
  // More than the socket takes: then the queue fills up.
  const std::string big(64 << 10, 'x');
  for (int i = 0; i < 64; ++i) fixture.events.publish("vm", "e", {{"k", big}});
  std::string line;
  std::string last;
  while ((line = slow.line()) != "<end>") {
    if (!line.empty()) last = line;
    REQUIRE(line != "<more>");
  }
  CHECK(last == ": the stream ends: the reader was too slow; resume with Last-Event-ID");
}

TEST_CASE("a slow reader that never reads again is dropped") {
  ServerLimits limits;
  limits.stream_events = 4;
  limits.transfer = std::chrono::milliseconds(30);
  limits.connections = 1;
  ServerFixture fixture(limits);
  EventClient slow(fixture);
  const std::string big(64 << 10, 'x');
  for (int i = 0; i < 64; ++i) fixture.events.publish("vm", "e", {{"k", big}});
  pollfd entry = {slow.raw().fd(), 0, 0};
  REQUIRE(::poll(&entry, 1, 10'000) == 1);
  CHECK((entry.revents & POLLHUP) != 0);
}

TEST_CASE("a stream whose reader hangs up leaves its place") {
  ServerLimits limits;
  limits.connections = 1;
  ServerFixture fixture(limits);
  {
    EventClient client(fixture);
    CHECK(client.head.status == 200);
  }
  // The kernel reports the hang-up before the connection that comes after it.
  RawClient next = fixture.connect();
  next.send(get("vmm.ping"));
  CHECK(next.response().status == 200);
}

TEST_CASE("a reader that only ended its writing side still gets events") {
  ServerFixture fixture;
  EventClient client(fixture);
  client.raw().shutdown_write();
  fixture.events.publish("vm", "booted");
  CHECK(client.name() == "booted");
}

TEST_CASE("stop ends the streams with a last word") {
  ServerFixture fixture;
  EventClient client(fixture);
  CHECK(client.line().starts_with(": the latest"));
  CHECK(client.line().empty());
  fixture.stop_and_join();
  CHECK(client.line() == ": the stream ends: the daemon stops");
  CHECK(client.line().empty());
  CHECK(client.line() == "<end>");
}

}  // namespace vmmd::api::testing
