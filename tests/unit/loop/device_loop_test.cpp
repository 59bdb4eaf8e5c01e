#include "daemon/loop/device_loop.h"

#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "tests/unit/support/await.h"

using namespace vmmd;
using vmmd::loop::DeviceLoop;
using vmmd::testing::Happening;

TEST_CASE("work runs on the loop's thread in the order it was posted") {
  DeviceLoop loop;
  REQUIRE(loop.start());
  std::vector<int> order;
  bool on_thread = false;
  for (int i = 0; i < 100; ++i) loop.post([&order, i] { order.push_back(i); });
  loop.run_sync([&] { on_thread = loop.on_loop_thread(); });
  CHECK(on_thread);
  CHECK_FALSE(loop.on_loop_thread());
  REQUIRE(order.size() == 100);
  for (int i = 0; i < 100; ++i) CHECK(order[static_cast<std::size_t>(i)] == i);
}

TEST_CASE("a loop has the name and the CPUs that it was given") {
  DeviceLoop loop;
  cpu_set_t mine;
  REQUIRE(::sched_getaffinity(0, sizeof mine, &mine) == 0);
  unsigned last = 0;
  for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &mine)) last = cpu;
  }
  REQUIRE(loop.start({.name = "disk:0123456789abcdef", .cpus = {last}}));
  cpu_set_t set;
  std::array<char, 16> name{};
  loop.run_sync([&] {
    CHECK(::sched_getaffinity(0, sizeof set, &set) == 0);
    CHECK(::pthread_getname_np(::pthread_self(), name.data(), name.size()) == 0);
  });
  CHECK(CPU_COUNT(&set) == 1);
  CHECK(CPU_ISSET(last, &set));
  CHECK(std::string(name.data()) == "disk:0123456789");
}

TEST_CASE("a loop's thread has the shortest slices that the scheduler gives, its share stays") {
  // struct sched_attr (sched_setattr(2)) in its first size: the slice in nanoseconds at byte 24, before Linux
  // 6.12 zero.
  std::array<std::uint64_t, 6> mine = {};
  REQUIRE(::syscall(SYS_sched_getattr, 0, mine.data(), sizeof mine, 0) == 0);
  DeviceLoop loop;
  REQUIRE(loop.start());
  std::array<std::uint64_t, 6> its = {};
  loop.run_sync([&its] { REQUIRE(::syscall(SYS_sched_getattr, 0, its.data(), sizeof its, 0) == 0); });
  CHECK(its[3] == (mine[3] == 0 ? 0 : 100'000));
  its[3] = mine[3];
  CHECK(its == mine);
}

TEST_CASE("a loop that may run on no CPU of the host is refused") {
  DeviceLoop loop;
  const Status started = loop.start({.name = "disk:a", .cpus = {1023}});
  REQUIRE_FALSE(started);
  CHECK(started.error().to_string() ==
        "a device's thread cannot run on the host's CPUs 1023: Invalid argument");
}

TEST_CASE("work posted before the start runs after it") {
  DeviceLoop loop;
  Happening ran;
  loop.post([&] { ran.happen(); });
  CHECK(ran.count() == 0);
  REQUIRE(loop.start());
  CHECK(ran.wait_for(1));
}

TEST_CASE("post from the loop's own thread does not run inside post") {
  DeviceLoop loop;
  REQUIRE(loop.start());
  bool nested = false;
  bool inside = false;
  Happening ran;
  loop.post([&] {
    inside = true;
    loop.post([&] {
      nested = inside;
      ran.happen();
    });
    inside = false;
  });
  REQUIRE(ran.wait_for(1));
  CHECK_FALSE(nested);
}

TEST_CASE("run_sync works before the start, after the stop and on the loop's thread") {
  DeviceLoop loop;
  int runs = 0;
  loop.run_sync([&] { ++runs; });
  REQUIRE(loop.start());
  CHECK(loop.running());
  loop.run_sync([&] { loop.run_sync([&] { ++runs; }); });
  loop.stop();
  CHECK_FALSE(loop.running());
  loop.run_sync([&] { ++runs; });
  CHECK(runs == 3);
}

TEST_CASE("stop is idempotent, drops what is queued, and a second start is refused") {
  DeviceLoop loop;
  REQUIRE(loop.start());
  CHECK_FALSE(loop.start());
  loop.stop();
  bool ran = false;
  loop.post([&] { ran = true; });
  loop.stop();
  CHECK_FALSE(loop.start());
  CHECK_FALSE(ran);
}

TEST_CASE("the loop's thread takes no signals and the caller's mask is untouched") {
  sigset_t before = {};
  ::pthread_sigmask(SIG_BLOCK, nullptr, &before);
  DeviceLoop loop;
  REQUIRE(loop.start());
  sigset_t after = {};
  ::pthread_sigmask(SIG_BLOCK, nullptr, &after);
  sigset_t inside = {};
  loop.run_sync([&] { ::pthread_sigmask(SIG_BLOCK, nullptr, &inside); });
  for (const int signal : {SIGTERM, SIGPIPE, SIGINT, SIGUSR1, SIGRTMIN + 3}) {
    CHECK(::sigismember(&inside, signal) == 1);
    CHECK(::sigismember(&after, signal) == ::sigismember(&before, signal));
  }
}
