#include "tests/unit/support/fake_clock.h"

#include <string>

#include <doctest/doctest.h>

using vmmd::testing::FakeClock;

TEST_CASE("fake time: due callbacks run in order of their deadlines, each at its own time") {
  FakeClock clock;
  const std::uint64_t start = clock.monotonic_ns();
  const std::int64_t wall = clock.realtime_ns();
  std::string log;
  const auto a = clock.make_timer([&] { log += "a" + std::to_string(clock.monotonic_ns() - start) + " "; });
  const auto b = clock.make_timer([&] { log += "b" + std::to_string(clock.monotonic_ns() - start) + " "; });
  a->arm(start + 30);
  b->arm(start + 20);
  CHECK(clock.next_deadline() == start + 20);
  clock.advance(19);
  CHECK(log.empty());
  clock.advance(100);
  CHECK(log == "b20 a30 ");
  CHECK(clock.realtime_ns() - wall == 119);
  CHECK(clock.armed_timers() == 0);
}

TEST_CASE("fake time: a periodic callback fires as often as it should within one advance") {
  FakeClock clock;
  int fired = 0;
  std::unique_ptr<vmmd::devices::Timer> timer;
  timer = clock.make_timer([&] {
    ++fired;
    timer->arm(clock.monotonic_ns() + 10);
  });
  timer->arm(clock.monotonic_ns() + 10);
  clock.advance(95);
  CHECK(fired == 9);
}
