#include <string>

#include <doctest/doctest.h>

#include "devices/virtio/watchdog.h"
#include "proto/state.pb.h"
#include "tests/unit/support/fake_clock.h"
#include "tests/unit/support/fake_device_events.h"
#include "tests/unit/support/fake_power.h"
#include "tests/unit/support/virtio_device.h"

using namespace vmmd;
using namespace vmmd::devices;
using namespace vmmd::testing;

namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kTimeout = VirtioWatchdog::kTimeoutNs;

struct Watchdog {
  /// What the device wrote into the ping's buffer.
  std::string ping(std::uint32_t length = 1) {
    const auto buffer = guest.allocate(4);
    running.driver(0).add({}, {{buffer, length}});
    running.notify(0);
    const auto used = running.driver(0).take_used();
    return used.empty() ? "none" : guest.bytes(buffer, used.front().written);
  }

  FakeClock clock;
  FakeEventLoop loop;
  FakeGuest guest;
  FakePowerSink power;
  FakeDeviceEvents events;
  VirtioWatchdog device{loop, clock, power, events};
  RunningDevice running{device, loop, guest};
};

UnitState state_of(std::uint64_t remaining_ns) {
  state::VirtioWatchdog message;
  message.set_remaining_ns(remaining_ns);
  return pack_state(message);
}

}  // namespace

TEST_CASE("virtio-watchdog is of type 35 with one queue of 8") {
  const Watchdog dog;
  CHECK(static_cast<int>(dog.device.type()) == 35);
  CHECK(dog.device.queue_sizes() == std::vector<std::uint16_t>{8});
}

TEST_CASE("virtio-watchdog answers a ping with 1") {
  Watchdog dog;
  dog.running.start();
  CHECK(dog.ping() == "\1");
  CHECK(dog.ping(3) == "\1");
  CHECK(dog.running.transport.queue_interrupts[0] == 2);
  CHECK(dog.device.counters().at("pings") == 2);
}

TEST_CASE("virtio-watchdog leaves a guest alone that has never pinged") {
  Watchdog dog;
  dog.running.start();
  CHECK(dog.clock.armed_timers() == 0);
  dog.clock.advance(10 * kTimeout);
  CHECK(dog.power.resets == 0);
}

TEST_CASE("virtio-watchdog does not take a buffer without room for a ping") {
  Watchdog dog;
  dog.running.start();
  dog.running.driver(0).add({{dog.guest.place("ping"), 4}}, {});
  dog.running.notify(0);
  CHECK(dog.running.driver(0).take_used().front().written == 0);
  CHECK(dog.clock.armed_timers() == 0);
  CHECK(dog.device.counters().at("pings") == 0);
}

TEST_CASE("virtio-watchdog resets a guest that stops pinging, once, and tells of it") {
  Watchdog dog;
  dog.running.start();
  dog.ping();
  dog.clock.advance(kTimeout - 1);
  CHECK(dog.power.resets == 0);
  dog.clock.advance(1);
  CHECK(dog.power.resets == 1);
  REQUIRE(dog.events.expirations.size() == 1);
  CHECK(dog.events.expirations.front() == "watchdog: no ping from the guest for 20 s; it is reset");
  CHECK(dog.device.counters().at("timeouts") == 1);
  dog.clock.advance(10 * kTimeout);
  CHECK(dog.power.resets == 1);
}

TEST_CASE("virtio-watchdog starts over with each ping") {
  Watchdog dog;
  dog.running.start();
  for (int i = 0; i < 5; ++i) {
    dog.ping();
    dog.clock.advance(kTimeout - 1);
  }
  CHECK(dog.power.resets == 0);
  dog.clock.advance(1);
  CHECK(dog.power.resets == 1);
}

TEST_CASE("virtio-watchdog does not count while it is stopped") {
  Watchdog dog;
  dog.running.start();
  dog.ping();
  dog.clock.advance(5 * kSecond);
  dog.running.stop();
  CHECK(dog.clock.armed_timers() == 0);
  dog.clock.advance(3600 * kSecond);
  dog.running.start();
  dog.clock.advance(15 * kSecond - 1);
  CHECK(dog.power.resets == 0);
  dog.clock.advance(1);
  CHECK(dog.power.resets == 1);
}

TEST_CASE("virtio-watchdog that was due when it was stopped expires when it runs again") {
  Watchdog dog;
  dog.running.start();
  dog.ping();
  dog.clock.set_monotonic_ns(dog.clock.monotonic_ns() + kTimeout);
  dog.running.stop();
  dog.clock.advance(kSecond);
  CHECK(dog.power.resets == 0);
  dog.running.start();
  dog.clock.advance(1);
  CHECK(dog.power.resets == 1);
}

TEST_CASE("virtio-watchdog restores what was left of its time into a cold device") {
  Watchdog source;
  source.running.start();
  source.ping();
  source.clock.advance(7 * kSecond);
  source.running.stop();
  const UnitState saved = *source.device.save();

  Watchdog copy;
  REQUIRE(copy.device.restore(saved));
  CHECK(copy.device.save()->value == saved.value);
  copy.clock.advance(3600 * kSecond);  // a clock that is put forward
  copy.running.start();
  copy.clock.advance(13 * kSecond - 1);
  CHECK(copy.power.resets == 0);
  copy.clock.advance(1);
  CHECK(copy.power.resets == 1);
}

TEST_CASE("virtio-watchdog restores a timer that is off") {
  Watchdog source;
  Watchdog copy;
  REQUIRE(copy.device.restore(state_of(kSecond)));
  REQUIRE(copy.device.restore(*source.device.save()));
  copy.running.start();
  CHECK(copy.clock.armed_timers() == 0);
}

TEST_CASE("virtio-watchdog refuses more time than there is, and stays as it was") {
  Watchdog dog;
  REQUIRE(dog.device.restore(state_of(kTimeout)));
  const auto refused = dog.device.restore(state_of(kTimeout + 1));
  REQUIRE_FALSE(refused);
  CHECK(refused.error().to_string().find("unit watchdog") != std::string::npos);
  CHECK(dog.device.save()->value == state_of(kTimeout).value);
}

TEST_CASE("virtio-watchdog's timer is off after the driver's reset") {
  Watchdog dog;
  dog.running.start();
  dog.ping();
  dog.running.stop();
  dog.device.reset();
  dog.running.start();
  dog.clock.advance(2 * kTimeout);
  CHECK(dog.power.resets == 0);
}
