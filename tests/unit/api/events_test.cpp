#include "api/events.h"

#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

namespace vmmd::api {

TEST_CASE("an event's JSON is one line in a fixed order") {
  Event event;
  event.sequence = 258;
  event.monotonic = {5, 6};
  event.wall = {7, 8};
  event.source = "vm";
  event.event = "booted";
  CHECK(to_json(event) == R"({"sequence":258,"timestamp":{"secs":5,"nanos":6},"wall":{"secs":7,"nanos":8},)"
                          R"("source":"vm","event":"booted","properties":null})");
}

TEST_CASE("properties are quoted, whatever bytes they hold") {
  Event event;
  event.properties = {{"a\"b", "line\nbreak"}, {"bad", "\xff\x01"}};
  CHECK(to_json(event).ends_with(
      "\"properties\":{\"a\\\"b\":\"line\\nbreak\",\"bad\":\"\xef\xbf\xbd\\u0001\"}}"));
}

TEST_CASE("sequence numbers start at one and have no gaps") {
  EventBus bus;
  std::vector<std::uint64_t> seen;
  const auto handle = bus.subscribe([&](const auto&, std::uint64_t sequence) { seen.push_back(sequence); });
  for (int i = 0; i < 3; ++i) bus.publish("vm", "e");
  CHECK(seen == std::vector<std::uint64_t>{1, 2, 3});
}

TEST_CASE("a listener hears nothing once its handle is gone") {
  EventBus bus;
  int heard = 0;
  auto handle = bus.subscribe([&](const auto&, std::uint64_t) { ++heard; });
  bus.publish("vm", "e");
  handle.reset();
  bus.publish("vm", "e");
  CHECK(heard == 1);
}

TEST_CASE("all listeners share one rendered line") {
  EventBus bus;
  std::shared_ptr<const std::string> first;
  std::shared_ptr<const std::string> second;
  const auto a = bus.subscribe([&](const auto& line, std::uint64_t) { first = line; });
  const auto b = bus.subscribe([&](const auto& line, std::uint64_t) { second = line; });
  bus.publish("vm", "e");
  CHECK(first != nullptr);
  CHECK(first == second);
}

TEST_CASE("subscribe_since gives what was missed and then what comes, once each") {
  EventBus bus;
  bus.publish("vm", "one");
  bus.publish("vm", "two");
  std::vector<std::uint64_t> live;
  const auto resumed =
      bus.subscribe_since(1, [&](const auto&, std::uint64_t sequence) { live.push_back(sequence); });
  bus.publish("vm", "three");
  REQUIRE(resumed.missed.size() == 1);
  CHECK(resumed.missed[0].sequence == 2);
  CHECK(resumed.missed[0].json->find("\"two\"") != std::string::npos);
  CHECK(resumed.last == 2);
  CHECK(live == std::vector<std::uint64_t>{3});
}

TEST_CASE("subscribe_since reaches back as far as the history, and no further") {
  EventBus bus;
  for (std::size_t i = 0; i < EventBus::kHistory + 5; ++i) bus.publish("vm", "e");
  const auto resumed = bus.subscribe_since(2, [](const auto&, std::uint64_t) {});
  REQUIRE(resumed.missed.size() == EventBus::kHistory);
  CHECK(resumed.missed.front().sequence == 6);
  CHECK(resumed.missed.back().sequence == EventBus::kHistory + 5);
}

TEST_CASE("a since from the future is another daemon's and gives the whole history") {
  EventBus bus;
  bus.publish("vm", "e");
  CHECK(bus.subscribe_since(99, [](const auto&, std::uint64_t) {}).missed.size() == 1);
  CHECK(bus.subscribe_since(1, [](const auto&, std::uint64_t) {}).missed.empty());
  CHECK(bus.subscribe_since(std::nullopt, [](const auto&, std::uint64_t) {}).missed.empty());
}

TEST_CASE("a handle may outlive its bus") {
  std::shared_ptr<void> handle;
  {
    EventBus bus;
    handle = bus.subscribe([](const auto&, std::uint64_t) {});
  }
  handle.reset();
  CHECK(handle == nullptr);
}

}  // namespace vmmd::api
