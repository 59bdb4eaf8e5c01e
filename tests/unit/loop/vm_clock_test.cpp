#include "daemon/loop/vm_clock.h"

#include <time.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "tests/unit/support/await.h"

using namespace vmmd;
using vmmd::loop::DeviceLoop;
using vmmd::loop::VmClock;
using vmmd::testing::Happening;

namespace {

constexpr std::uint64_t kMillisecond = 1'000'000;
constexpr std::uint64_t kHour = 3'600'000'000'000;

struct Fixture {
  DeviceLoop loop;
  VmClock clock{loop};
  Fixture() { REQUIRE(loop.start()); }
};

std::uint64_t host_ns() {
  timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

TEST_CASE("a new clock stands at zero") {
  const Fixture f;
  CHECK(f.clock.frozen());
  CHECK(f.clock.monotonic_ns() == 0);
}

TEST_CASE("thawed it moves with the host, frozen it stands, and goes on where it stood") {
  Fixture f;
  f.clock.set_monotonic_ns(5 * kHour);
  const std::uint64_t host_before = host_ns();
  f.clock.thaw();
  while (f.clock.monotonic_ns() == 5 * kHour) {
  }
  f.clock.freeze();
  const std::uint64_t moved = f.clock.monotonic_ns() - 5 * kHour;
  CHECK(moved > 0);
  CHECK(moved <= host_ns() - host_before);
  const std::uint64_t stood = f.clock.monotonic_ns();
  CHECK(f.clock.monotonic_ns() == stood);
  f.clock.thaw();
  const std::uint64_t after = f.clock.monotonic_ns();
  CHECK(after >= stood);
  CHECK(after - stood <= host_ns() - host_before);
}

TEST_CASE("wall time is the host's") {
  const Fixture f;
  timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  const std::int64_t before = now.tv_sec * 1'000'000'000 + now.tv_nsec;
  CHECK(f.clock.realtime_ns() >= before);
}

TEST_CASE("a timer fires once, on the loop's thread, not before its deadline") {
  Fixture f;
  f.clock.thaw();
  Happening fired;
  std::atomic<std::uint64_t> at = 0;
  std::atomic<bool> on_loop = false;
  const auto timer = f.clock.make_timer([&] {
    at = f.clock.monotonic_ns();
    on_loop = f.loop.on_loop_thread();
    fired.happen();
  });
  const std::uint64_t deadline = f.clock.monotonic_ns() + 2 * kMillisecond;
  timer->arm(deadline);
  REQUIRE(fired.wait_for(1));
  CHECK(at >= deadline);
  CHECK(on_loop);
}

TEST_CASE("a deadline in the past fires at once, outside arm()") {
  Fixture f;
  f.clock.set_monotonic_ns(kHour);
  f.clock.thaw();
  Happening fired;
  std::mutex device;
  const auto timer = f.clock.make_timer([&] {
    const std::lock_guard lock(device);
    fired.happen();
  });
  {
    const std::lock_guard lock(device);
    timer->arm(1);
  }
  CHECK(fired.wait_for(1));
}

TEST_CASE("arm replaces the earlier deadline and cancel takes it away") {
  Fixture f;
  f.clock.thaw();
  Happening moved;
  std::atomic<bool> cancelled_fired = false;
  const auto timer = f.clock.make_timer([&] { moved.happen(); });
  const auto cancelled = f.clock.make_timer([&] { cancelled_fired = true; });
  timer->arm(kHour);
  cancelled->arm(f.clock.monotonic_ns() + 3 * kMillisecond);
  cancelled->cancel();
  timer->arm(f.clock.monotonic_ns() + 6 * kMillisecond);
  REQUIRE(moved.wait_for(1));
  CHECK_FALSE(cancelled_fired);
}

TEST_CASE("a callback may arm its own timer") {
  Fixture f;
  f.clock.thaw();
  Happening fired;
  std::unique_ptr<devices::Timer> timer;
  timer = f.clock.make_timer([&] {
    fired.happen();
    if (fired.count() < 5) timer->arm(f.clock.monotonic_ns() + kMillisecond / 10);
  });
  timer->arm(0);
  CHECK(fired.wait_for(5));
}

TEST_CASE("armed while frozen, a timer waits for the thaw") {
  Fixture f;
  Happening fired;
  const auto timer = f.clock.make_timer([&] { fired.happen(); });
  timer->arm(0);
  f.loop.run_sync([] {});
  f.loop.run_sync([] {});
  CHECK(fired.count() == 0);
  f.clock.thaw();
  CHECK(fired.wait_for(1));
}

TEST_CASE("a deadline that passes on the host while frozen fires only after the thaw") {
  Fixture f;
  f.clock.thaw();
  Happening fired;
  const auto timer = f.clock.make_timer([&] { fired.happen(); });
  // The host's time runs past the deadline before the loop can look: the loop is kept busy until frozen.
  Happening frozen;
  f.loop.post([&] { static_cast<void>(frozen.wait_for(1)); });
  timer->arm(f.clock.monotonic_ns() + 1);
  std::thread freezer([&] {
    f.clock.freeze();
    frozen.happen();
  });
  freezer.join();
  f.loop.run_sync([] {});
  CHECK(fired.count() == 0);
  f.clock.thaw();
  CHECK(fired.wait_for(1));
}

TEST_CASE("restore: time jumps while frozen, and deadlines are met in the new time") {
  Fixture f;
  Happening fired;
  const auto near = f.clock.make_timer([&] { fired.happen(); });
  std::atomic<bool> far_fired = false;
  const auto far = f.clock.make_timer([&] { far_fired = true; });
  near->arm(7 * kHour);
  far->arm(8 * kHour);
  f.clock.set_monotonic_ns(7 * kHour - kMillisecond);
  f.clock.thaw();
  REQUIRE(fired.wait_for(1));
  CHECK(f.clock.monotonic_ns() >= 7 * kHour);
  CHECK_FALSE(far_fired);
}

TEST_CASE("the farthest deadline does not fire") {
  Fixture f;
  f.clock.thaw();
  std::atomic<bool> fired = false;
  const auto timer = f.clock.make_timer([&] { fired = true; });
  timer->arm(~std::uint64_t{0});
  f.loop.run_sync([] {});
  f.loop.run_sync([] {});
  CHECK_FALSE(fired);
}

TEST_CASE("freeze waits for a running callback") {
  Fixture f;
  f.clock.thaw();
  Happening entered;
  std::atomic<bool> done = false;
  Happening go;
  const auto timer = f.clock.make_timer([&] {
    entered.happen();
    static_cast<void>(go.wait_for(1));
    done = true;
  });
  timer->arm(0);
  REQUIRE(entered.wait_for(1));
  std::thread opener([&] { go.happen(); });
  f.clock.freeze();
  CHECK(done);
  opener.join();
}

TEST_CASE("a timer's destructor waits for its callback") {
  Fixture f;
  f.clock.thaw();
  Happening entered;
  Happening go;
  std::atomic<bool> done = false;
  auto timer = f.clock.make_timer([&] {
    entered.happen();
    static_cast<void>(go.wait_for(1));
    done = true;
  });
  timer->arm(0);
  REQUIRE(entered.wait_for(1));
  std::thread opener([&] { go.happen(); });
  timer.reset();
  CHECK(done);
  opener.join();
}

TEST_CASE("timers and clock may go while waits are outstanding") {
  DeviceLoop loop;
  REQUIRE(loop.start());
  {
    VmClock clock(loop);
    clock.thaw();
    const auto timer = clock.make_timer([] {});
    timer->arm(kHour);
  }
  loop.run_sync([] {});
  CHECK(loop.running());
}
