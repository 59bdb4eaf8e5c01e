#include "devices/chipset/pit.h"

#include <doctest/doctest.h>

#include "devices/chipset/speaker_port.h"
#include "proto/state.pb.h"
#include "tests/unit/support/fake_clock.h"
#include "tests/unit/support/fake_interrupt.h"

using namespace vmmd;
using namespace vmmd::devices;
using vmmd::testing::FakeClock;
using vmmd::testing::FakeInterruptLine;

namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

struct Machine {
  FakeClock clock;
  FakeInterruptLine irq;
  Pit pit{clock, irq};
  SpeakerPort speaker{clock, pit};
  std::uint64_t tick_count = 0;  // where step() has gone

  Machine() { clock.set_monotonic_ns(0); }

  void control(std::uint8_t value) { pit.write(3, 1, value); }
  void count(unsigned channel, std::uint16_t value) {
    pit.write(channel, 1, value & 0xff);
    pit.write(channel, 1, value >> 8);
  }
  std::uint16_t read16(unsigned channel) {
    const auto low = pit.read(channel, 1);
    return static_cast<std::uint16_t>(low | pit.read(channel, 1) << 8);
  }
  std::uint16_t latched(unsigned channel) {
    control(static_cast<std::uint8_t>(channel << 6));
    return read16(channel);
  }
  std::uint8_t status(unsigned channel) {
    control(static_cast<std::uint8_t>(0xe0 | 2U << channel));
    return static_cast<std::uint8_t>(pit.read(channel, 1));
  }
  bool out(unsigned channel) { return (status(channel) & 0x80) != 0; }
  /// So many ticks on.
  void step(std::uint64_t ticks) {
    tick_count += ticks;
    const std::uint64_t ns = (tick_count * kSecond + Pit::kFrequency - 1) / Pit::kFrequency;
    clock.advance(ns - clock.monotonic_ns());
  }
  void gate(bool high) { speaker.write(0, 1, high ? 1 : 0); }
  /// Channel 2 in a mode, with a count and its gate high.
  void start(unsigned mode, std::uint16_t value) {
    gate(true);
    control(static_cast<std::uint8_t>(0xb0 | mode << 1));
    count(2, value);
  }
};

}  // namespace

TEST_CASE_FIXTURE(Machine, "mode 0: OUT rises once, one tick after the count, and counting goes on") {
  start(0, 10);
  CHECK_FALSE(out(2));
  CHECK((status(2) & 0x40) != 0);  // null count until the next tick
  step(1);
  CHECK((status(2) & 0x40) == 0);
  CHECK(latched(2) == 10);
  step(9);
  CHECK_FALSE(out(2));
  CHECK(latched(2) == 1);
  step(1);
  CHECK(out(2));
  CHECK(latched(2) == 0);
  step(1);
  CHECK(latched(2) == 0xffff);
  CHECK(out(2));
  count(2, 4);
  CHECK_FALSE(out(2));
}

TEST_CASE_FIXTURE(Machine, "mode 0: the gate and the first byte of a new count stop the counter") {
  start(0, 100);
  step(11);
  gate(false);
  step(50);
  CHECK(latched(2) == 90);
  gate(true);
  step(5);
  CHECK(latched(2) == 85);
  pit.write(2, 1, 7);
  step(200);
  CHECK(latched(2) == 85);
  CHECK_FALSE(out(2));
  pit.write(2, 1, 0);
  step(8);
  CHECK(out(2));
}

TEST_CASE_FIXTURE(Machine, "mode 1: the gate's rise makes a pulse, another one prolongs it") {
  control(0xb2);
  count(2, 10);
  step(30);
  CHECK(out(2));
  gate(true);
  step(1);
  CHECK_FALSE(out(2));
  step(5);
  gate(false);
  gate(true);
  step(10);
  CHECK_FALSE(out(2));
  step(1);
  CHECK(out(2));
}

TEST_CASE_FIXTURE(Machine, "mode 2: OUT is low for the last tick of each period") {
  start(2, 5);
  step(1);
  for (int period = 0; period < 3; ++period) {
    for (unsigned i = 0; i < 5; ++i) {
      CAPTURE(i);
      CHECK(latched(2) == 5 - i);
      CHECK(out(2) == (i != 4));
      step(1);
    }
  }
}

TEST_CASE_FIXTURE(Machine, "mode 2: a new count begins with the next period, or with the gate") {
  start(2, 100);
  step(41);
  count(2, 30);
  CHECK((status(2) & 0x40) != 0);
  CHECK(latched(2) == 60);
  step(60);
  CHECK(latched(2) == 30);
  CHECK((status(2) & 0x40) == 0);
  step(12);
  count(2, 77);
  gate(false);
  CHECK(out(2));
  step(5);
  gate(true);
  step(1);
  CHECK(latched(2) == 77);
}

TEST_CASE_FIXTURE(Machine,
                  "mode 3: a square wave, whose first half is longer by one where the count is odd") {
  for (const unsigned n : {6U, 7U}) {
    CAPTURE(n);
    start(3, static_cast<std::uint16_t>(n));
    step(1);
    for (int period = 0; period < 3; ++period) {
      for (unsigned i = 0; i < n; ++i) {
        CAPTURE(i);
        const unsigned half = (n + 1) / 2;
        CHECK(out(2) == (i < half));
        CHECK(latched(2) == (n & ~1U) - 2 * (i < half ? i : i - half));
        step(1);
      }
    }
  }
}

TEST_CASE_FIXTURE(Machine, "mode 3: a new count begins with the next half") {
  start(3, 20);
  step(3);
  count(2, 8);
  step(7);
  CHECK(out(2));
  step(1);
  CHECK_FALSE(out(2));
  CHECK(latched(2) == 8);
  step(4);
  CHECK(out(2));
}

TEST_CASE_FIXTURE(Machine,
                  "modes 4 and 5: one low tick after the count, started by its writing or by the gate") {
  start(4, 6);
  step(6);
  CHECK(out(2));
  step(1);
  CHECK_FALSE(out(2));
  step(1);
  CHECK(out(2));
  gate(false);
  control(0xba);
  count(2, 6);
  step(20);
  CHECK(out(2));
  gate(true);
  step(7);
  CHECK_FALSE(out(2));
  step(1);
  CHECK(out(2));
}

TEST_CASE_FIXTURE(Machine, "BCD counts in decimal, and zero means the most") {
  gate(true);
  control(0xb1);
  count(2, 0x1234);
  step(36);
  CHECK(latched(2) == 0x1199);
  control(0xb1);
  count(2, 0);
  step(2);
  CHECK(latched(2) == 0x9999);
  control(0xb0);
  count(2, 0);
  step(2);
  CHECK(latched(2) == 0xffff);
}

TEST_CASE_FIXTURE(Machine, "low and high byte alone set the other to zero") {
  gate(true);
  control(0x90);
  pit.write(2, 1, 0x42);
  step(3);
  CHECK(pit.read(2, 1) == 0x40);
  CHECK(pit.read(2, 1) == 0x40);
  control(0xa0);
  pit.write(2, 1, 0x13);
  step(0x101);
  CHECK(pit.read(2, 1) == 0x12);
}

TEST_CASE_FIXTURE(Machine, "a latched count stays until it is read, a second latch is ignored") {
  start(2, 0x1234);
  step(5);
  control(0x80);
  step(100);
  control(0x80);
  CHECK(read16(2) == 0x1230);
  CHECK(read16(2) == 0x1230 - 100);
}

TEST_CASE_FIXTURE(Machine, "read-back gives the status first, then the count, of all channels asked") {
  control(0x34);
  count(0, 0x2000);
  start(3, 0x1000);
  step(17);
  control(0xca);  // both, channels 0 and 2
  step(40);
  CHECK(pit.read(0, 1) == 0xb4);
  CHECK(read16(0) == 0x2000 - 16);
  CHECK(pit.read(2, 1) == 0xb6);
  CHECK(read16(2) == 0x1000 - 32);
}

TEST_CASE_FIXTURE(Machine, "channel 0 interrupts once a period, whose length does not drift") {
  control(0x34);
  count(0, 11'932);
  clock.advance(100 * kSecond);
  const auto expected = (100 * Pit::kFrequency - 1) / 11'932;
  CHECK(irq.rising_edges() == expected + 1);  // and the rise of OUT when the mode was set
}

TEST_CASE_FIXTURE(Machine, "channel 0 as a one-shot interrupts once and leaves no timer behind") {
  control(0x30);
  count(0, 1000);
  CHECK(clock.armed_timers() == 1);
  step(1000);
  CHECK(irq.rising_edges() == 0);
  step(1);
  CHECK(irq.rising_edges() == 1);
  CHECK(irq.level());
  CHECK(clock.armed_timers() == 0);
  control(0x30);
  CHECK_FALSE(irq.level());
}

TEST_CASE_FIXTURE(Machine, "a square wave interrupts once a period, also when its count changes") {
  control(0x36);
  count(0, 20'000);
  const unsigned before = irq.rising_edges();
  step(5000);
  count(0, 10'000);  // 10'000 high, then 5'000 low
  step(10'000);
  CHECK(irq.rising_edges() == before);
  step(1);
  CHECK(irq.rising_edges() == before + 1);
  step(10'000);
  CHECK(irq.rising_edges() == before + 2);
}

TEST_CASE_FIXTURE(Machine, "the smallest counts do not storm the host") {
  control(0x34);
  count(0, 2);
  clock.advance(kSecond);
  CHECK(irq.rising_edges() > 10'000);
  CHECK(irq.rising_edges() <= kSecond / Pit::kMinEdgeNs + 1);
}

TEST_CASE_FIXTURE(Machine, "channels 1 and 2 never wake the host") {
  control(0x74);
  count(1, 18);
  start(3, 1000);
  CHECK(clock.armed_timers() == 0);
}

TEST_CASE_FIXTURE(Machine, "the speaker port shows its own bits, channel 2's OUT and the refresh") {
  CHECK((speaker.read(0, 1) & 0x0f) == 0);
  start(0, 100);
  CHECK((speaker.read(0, 1) & 0x2f) == 0x01);
  step(101);
  CHECK((speaker.read(0, 1) & 0x2f) == 0x21);
  speaker.write(0, 1, 0xfe);
  CHECK((speaker.read(0, 1) & 0x0f) == 0x0e);
  const auto refresh = speaker.read(0, 1) & 0x10;
  clock.advance(15'085);
  CHECK((speaker.read(0, 1) & 0x10) != refresh);
}

TEST_CASE_FIXTURE(Machine, "the speaker port saves its bits and refuses others") {
  speaker.write(0, 1, 0x0b);
  Machine cold;
  REQUIRE(cold.speaker.restore(*speaker.save()));
  CHECK((cold.speaker.read(0, 1) & 0x0f) == 0x0b);
  state::SpeakerPort bad;
  bad.set_control(0x10);
  CHECK(cold.speaker.restore(pack_state(bad)).error().code == ErrorCode::BadRequest);
  CHECK((cold.speaker.read(0, 1) & 0x0f) == 0x0b);
}

TEST_CASE_FIXTURE(Machine, "other offsets and widths read all ones and write nothing") {
  const auto before = pit.save();
  for (std::uint64_t offset = 0; offset < 5; ++offset) {
    for (const unsigned width : {1U, 2U, 4U, 8U}) {
      if (offset < 4 && width == 1) continue;
      pit.write(offset, width, 0x3434'3434);
      CHECK(pit.read(offset, width) == all_ones(width));
    }
  }
  CHECK(pit.read(3, 1) == 0xff);
  CHECK(pit.save()->value == before->value);
}

TEST_CASE_FIXTURE(Machine, "every field survives save, restore and save") {
  state::Pit message;
  for (unsigned i = 0; i < 3; ++i) {
    state::Pit::Channel& channel = *message.add_channels();
    channel.set_mode(4 - i);
    channel.set_access(1 + i);
    channel.set_bcd(true);
    channel.set_gate(true);
    channel.set_reload(0x1234 + i);
    channel.set_write_low(0x56 + i);
    channel.set_write_high_next(true);
    channel.set_read_high_next(true);
    channel.set_latch(0x789a + i);
    channel.set_latched_bytes(2);
    channel.set_status_latched(true);
    channel.set_status(0xb4 + i);
    channel.set_has_count(true);
    channel.set_loaded(true);
    channel.set_counting(true);
    channel.set_reload_pending(true);
    channel.set_initial(0x8765 + i);
    channel.set_low_half(true);
    channel.set_since(0x123 + i);
    channel.set_held(0x45 + i);
  }
  message.set_next_edge(0x123 + 0x8765 + 1);  // mode 4: one tick after the strobe
  const UnitState state = pack_state(message);
  clock.set_monotonic_ns(400'000);  // tick 477
  REQUIRE(pit.restore(state));
  CHECK(pit.save()->value == state.value);
}

TEST_CASE_FIXTURE(Machine, "a cold PIT goes on in the middle of a period") {
  control(0x34);
  count(0, 50'000);
  start(3, 1001);
  step(20'000);
  const auto saved = pit.save();
  Machine cold;
  cold.tick_count = tick_count;
  cold.clock.set_monotonic_ns(clock.monotonic_ns());
  REQUIRE(cold.pit.restore(*saved));
  const unsigned before = cold.irq.rising_edges();
  CHECK(cold.latched(0) == latched(0));
  CHECK(cold.latched(2) == latched(2));
  cold.step(30'000);
  CHECK(cold.irq.rising_edges() == before);
  cold.step(1);
  CHECK(cold.irq.rising_edges() == before + 1);
}

TEST_CASE_FIXTURE(Machine, "an edge that was due when the guest was stopped comes after the restore") {
  control(0x34);
  count(0, 1000);
  clock.set_monotonic_ns(2 * kSecond / 1000);  // past the edge, and its timer had no time to run
  const auto saved = pit.save();
  Machine cold;
  cold.clock.set_monotonic_ns(clock.monotonic_ns());
  REQUIRE(cold.pit.restore(*saved));
  const unsigned before = cold.irq.rising_edges();
  cold.clock.run_due();
  CHECK(cold.irq.rising_edges() == before + 1);
  CHECK(cold.clock.armed_timers() == 1);
}

TEST_CASE_FIXTURE(Machine, "a state that no PIT has is refused and changes nothing") {
  start(2, 77);
  const auto before = pit.save();
  const auto refused = [&](auto spoil) {
    state::Pit bad;
    REQUIRE(bad.ParseFromString(before->value));
    spoil(bad, *bad.mutable_channels(1));
    CHECK(pit.restore(pack_state(bad)).error().code == ErrorCode::BadRequest);
    CHECK(pit.save()->value == before->value);
  };
  refused([](auto& m, auto&) { m.add_channels(); });
  refused([](auto& m, auto&) { m.mutable_channels()->RemoveLast(); });
  refused([](auto& m, auto&) { m.set_next_edge(~std::uint64_t{0}); });
  refused([](auto&, auto& c) { c.set_mode(6); });
  refused([](auto&, auto& c) { c.set_access(0); });
  refused([](auto&, auto& c) { c.set_access(4); });
  refused([](auto&, auto& c) { c.set_reload(0x10000); });
  refused([](auto&, auto& c) { c.set_write_low(0x100); });
  refused([](auto&, auto& c) { c.set_latch(0x10000); });
  refused([](auto&, auto& c) { c.set_latched_bytes(3); });
  refused([](auto&, auto& c) { c.set_status(0x100); });
  refused([](auto&, auto& c) { c.set_initial(0); });
  refused([](auto&, auto& c) { c.set_initial(0x10001); });
  refused([](auto&, auto& c) { c.set_since(~std::uint64_t{0}); });
  refused([](auto&, auto& c) { c.set_held(~std::uint64_t{0}); });
}

TEST_CASE_FIXTURE(Machine, "an edge whose time came while the guest set it is not lost") {
  control(0x38);  // mode 4 of channel 0, as Linux uses it
  count(0, 23079);
  step(30000);
  CHECK(irq.rising_edges() == 2);       // and the rise of OUT when the mode was set
  clock.pass_at_each_look(25'000'000);  // longer than the count
  count(0, 23079);
  clock.pass_at_each_look(0);
  clock.advance(kSecond);
  CHECK(irq.rising_edges() == 3);
}

TEST_CASE_FIXTURE(Machine, "a periodic edge that is due between two looks is not lost") {
  control(0x34);
  count(0, 11932);  // 10 ms
  clock.advance(9'900'000);
  const unsigned before = irq.rising_edges();
  clock.pass_at_each_look(60'000);
  pit.write(0, 1, 0x9c);
  clock.pass_at_each_look(0);
  clock.run_due();
  clock.advance(100'000);
  CHECK(irq.rising_edges() == before + 1);
}

TEST_CASE_FIXTURE(Machine, "reset is the power-on state") {
  const auto fresh = pit.save();
  control(0x34);
  count(0, 100);
  pit.reset();
  CHECK(pit.save()->value == fresh->value);
  CHECK(clock.armed_timers() == 0);
}
