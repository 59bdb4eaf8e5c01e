#include <array>
#include <cstdint>

#include <doctest/doctest.h>

#include "tests/unit/devices/cmos_rtc_fixture.h"

using namespace vmmd;
using vmmd::testing::FakeClock;
using vmmd::testing::FakeInterruptLine;
using namespace vmmd::testing::rtc;

TEST_CASE_FIXTURE(Machine, "power-on: the host's UTC in BCD and 24 hours, valid, no interrupt") {
  CHECK(time() == kNowBcd);
  CHECK(get(kA) == kRunning);
  CHECK(get(kB) == k24);
  CHECK(get(kC) == 0);
  CHECK(get(kD) == 0x80);
  CHECK_FALSE(line.level());
}

TEST_CASE_FIXTURE(Machine, "binary and 12-hour modes show the same time") {
  set(kB, kBinary | k24);
  CHECK(time() == Time{20, 26, 3, 5, 5, 14, 7, 9});
  set(kB, kBinary);
  CHECK(get(4) == (0x80 | 2));
  set(kB, 0);
  CHECK(get(4) == 0x82);
}

TEST_CASE("midnight and noon are 12 in 12-hour mode") {
  Machine machine(kNow - (14 * 3600 + 7 * 60 + 9) * std::int64_t{1'000'000'000});
  machine.set(kB, 0);
  CHECK(machine.get(4) == 0x12);
  machine.clock.advance(12 * 3600 * kSecond);
  CHECK(machine.get(4) == 0x92);
  machine.clock.advance(3600 * kSecond);
  CHECK(machine.get(4) == 0x81);
}

TEST_CASE("time carries over to the next century, on a leap day's eve too") {
  Machine machine(std::int64_t{4'107'542'399} * 1'000'000'000);  // 2100-02-28 23:59:59, no leap year
  CHECK(machine.time() == Time{0x21, 0x00, 0x02, 0x28, 1, 0x23, 0x59, 0x59});
  machine.clock.advance(kSecond);
  CHECK(machine.time() == Time{0x21, 0x00, 0x03, 0x01, 2, 0, 0, 0});
}

TEST_CASE("a host clock before 1970 is a time too") {
  Machine machine(-1);
  CHECK(machine.time() == Time{0x19, 0x69, 0x12, 0x31, 4, 0x23, 0x59, 0x59});
}

TEST_CASE_FIXTURE(Machine, "time stands still under SET, and goes on from what was set") {
  set(kB, kSet | k24);
  clock.advance(10 * kSecond);
  CHECK(time() == kNowBcd);
  set_time({0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x58});
  clock.advance(10 * kSecond);
  set(kB, k24);
  CHECK(time() == Time{0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x58});
  clock.advance(2 * kSecond);
  CHECK(time() == Time{0x20, 0x00, 0x01, 0x01, 7, 0, 0, 0});
}

TEST_CASE_FIXTURE(Machine, "a register written while the clock runs changes that register only") {
  set(2, 0x45);
  CHECK(time() == Time{0x20, 0x26, 0x03, 0x05, 5, 0x14, 0x45, 0x09});
  set(kCentury, 0x19);
  CHECK(time() == Time{0x19, 0x26, 0x03, 0x05, 5, 0x14, 0x45, 0x09});
}

TEST_CASE_FIXTURE(Machine, "time set in 12-hour binary mode is understood so") {
  set(kB, kSet | kBinary);
  set_time({20, 30, 6, 15, 7, 0x80 | 12, 34, 56});
  set(kB, kBinary);
  set(kB, kBinary | k24);
  CHECK(time() == Time{20, 30, 6, 15, 7, 12, 34, 56});
}

TEST_CASE_FIXTURE(Machine, "any bytes are taken as a time, and the clock still runs") {
  for (const unsigned mode : {0U, unsigned{k24}, unsigned{kBinary}, unsigned{kBinary | k24}}) {
    for (const unsigned byte : {0x00U, 0x0aU, 0x5fU, 0x7fU, 0x80U, 0xc0U, 0xffU}) {
      set(kB, kSet | mode);
      set_time({byte, byte, byte, byte, byte, byte, byte, byte});
      set(kB, mode);
      const unsigned before = get(0);
      clock.advance(kSecond);
      CHECK(get(0) != before);
      CHECK(get(6) >= 1);
      CHECK(get(6) <= 7);
    }
  }
}

TEST_CASE_FIXTURE(Machine, "the first update comes half a second after the divider's reset ends") {
  clock.advance(kSecond / 4);
  set(kB, kSet | k24);
  set(kA, kDividerReset | 6);
  set_time({0x20, 0x31, 0x01, 0x02, 5, 0x03, 0x04, 0x05});
  set(kB, k24);
  clock.advance(5 * kSecond);
  CHECK(get(0) == 0x05);  // the divider is still held
  set(kA, kRunning);
  clock.advance(kSecond / 2 - 1);
  CHECK(get(0) == 0x05);
  clock.advance(1);
  CHECK(get(0) == 0x06);
}

TEST_CASE_FIXTURE(Machine, "an update is announced 244 us before, and never under SET") {
  clock.advance(kSecond - 244'001);
  CHECK(get(kA) == kRunning);
  clock.advance(1);
  CHECK(get(kA) == (kRunning | 0x80));
  set(kB, kSet | k24);
  CHECK(get(kA) == kRunning);
  set(kB, k24);
  clock.advance(244'000);
  CHECK(get(kA) == kRunning);
}

TEST_CASE_FIXTURE(Machine, "without an enabled interrupt no timer is armed, yet the flags are there") {
  set_alarm(0x14, 0x07, 0x12);
  CHECK(clock.armed_timers() == 0);
  clock.advance(10 * kSecond);
  CHECK(clock.armed_timers() == 0);
  CHECK(get(kC) == (kPie | kAie | kUie));
  CHECK(get(kC) == 0);
  CHECK(line.rising_edges() == 0);
}

TEST_CASE_FIXTURE(Machine, "the update-ended interrupt comes each second, once per read of register C") {
  clock.advance(kSecond / 10);
  get(kC);
  set(kB, k24 | kUie);
  CHECK_FALSE(line.level());
  clock.advance(kSecond * 9 / 10 - 1);
  CHECK_FALSE(line.level());
  clock.advance(1);
  CHECK(line.level());
  CHECK(clock.armed_timers() == 0);  // nothing more to tell until the guest reads
  clock.advance(3 * kSecond);
  CHECK(line.rising_edges() == 1);
  CHECK((get(kC) & (0x80 | kUie)) == (0x80 | kUie));
  CHECK_FALSE(line.level());
  clock.advance(kSecond);
  CHECK(line.rising_edges() == 2);
}

TEST_CASE_FIXTURE(Machine, "SET disables the update-ended interrupt") {
  set(kB, k24 | kUie);
  set(kB, k24 | kUie | kSet);
  CHECK(get(kB) == (k24 | kSet));
  CHECK(clock.armed_timers() == 0);
}

TEST_CASE_FIXTURE(Machine,
                  "enabling an interrupt whose flag is up asserts at once, disabling it lowers the line") {
  clock.advance(2 * kSecond);
  set(kB, k24 | kUie);
  CHECK(line.level());
  set(kB, k24);
  CHECK_FALSE(line.level());
  set(kB, k24 | kUie);
  CHECK(line.level());
}

TEST_CASE_FIXTURE(Machine, "reading register C just before the timer fires loses the flag, not an edge") {
  get(kC);
  set(kB, k24 | kUie);
  clock.set_monotonic_ns(clock.monotonic_ns() + kSecond);
  clock.set_realtime_ns(kNow + 1'000'000'000);
  CHECK((get(kC) & kUie) != 0);
  CHECK(line.rising_edges() == 0);
  clock.run_due();
  CHECK(line.rising_edges() == 0);
}

TEST_CASE_FIXTURE(Machine, "an alarm fires at its time of day, and again the next day") {
  set_alarm(0x14, 0x08, 0x00);
  set(kB, k24 | kAie);
  clock.advance(51 * kSecond - 1);
  CHECK_FALSE(line.level());
  clock.advance(1);
  CHECK(line.level());
  CHECK((get(kC) & kAie) != 0);
  clock.advance(86'400 * kSecond - 1);
  CHECK_FALSE(line.level());
  clock.advance(1);
  CHECK(line.level());
}

TEST_CASE_FIXTURE(Machine, "an alarm whose second came while the guest set it fires now, not tomorrow") {
  set_alarm(0x14, 0x07, 0x10);  // in a second
  clock.advance(kSecond - 1000);
  clock.pass_at_each_look(500);
  set(kB, k24 | kAie);
  clock.pass_at_each_look(0);
  clock.advance(kSecond / 2);
  CHECK(line.level());
}

TEST_CASE_FIXTURE(Machine, "an alarm in the past of today fires tomorrow") {
  set_alarm(0x14, 0x07, 0x09);
  set(kB, k24 | kAie);
  clock.advance(86'400 * kSecond - 1);
  CHECK_FALSE(line.level());
  clock.advance(1);
  CHECK(line.level());
}

TEST_CASE_FIXTURE(Machine, "alarm wildcards match every hour, minute or second") {
  SUBCASE("every hour at :30:05") {
    set_alarm(0xff, 0x30, 0x05);
    set(kB, k24 | kAie);
    clock.advance((22 * 60 + 56) * kSecond - 1);
    CHECK_FALSE(line.level());
    clock.advance(1);
    CHECK(line.level());
    get(kC);
    clock.advance(3600 * kSecond - 1);
    CHECK_FALSE(line.level());
    clock.advance(1);
    CHECK(line.level());
  }
  SUBCASE("every minute at :03") {
    set_alarm(0xc0, 0xc0, 0x03);
    set(kB, k24 | kAie);
    clock.advance(54 * kSecond);
    CHECK(line.level());
    get(kC);
    clock.advance(60 * kSecond);
    CHECK(line.rising_edges() == 2);
  }
  SUBCASE("every second") {
    set_alarm(0xc0, 0xc0, 0xc0);
    set(kB, k24 | kAie);
    for (unsigned i = 1; i <= 5; ++i) {
      clock.advance(kSecond);
      CHECK(line.rising_edges() == i);
      get(kC);
    }
  }
  SUBCASE("every second of 16:00") {
    set_alarm(0x16, 0x00, 0xff);
    set(kB, k24 | kAie);
    clock.advance((112 * 60 + 51) * kSecond);
    CHECK(line.rising_edges() == 1);
  }
}

TEST_CASE_FIXTURE(Machine, "an alarm in 12-hour mode distinguishes morning and afternoon") {
  set(kB, 0);
  set_alarm(0x83, 0x00, 0x00);  // 3 pm
  set(kB, kAie);
  clock.advance((52 * 60 + 51) * kSecond - 1);
  CHECK_FALSE(line.level());
  clock.advance(1);
  CHECK(line.level());
}

TEST_CASE_FIXTURE(Machine, "an alarm that is no time of day never fires and arms nothing") {
  for (const auto& [h, m, s] :
       {std::array{0x24U, 0xffU, 0xffU}, {0xffU, 0x60U, 0xffU}, {0xffU, 0xffU, 0x7fU}, {0x0aU, 0U, 0U}}) {
    get(kC);
    set_alarm(h, m, s);
    set(kB, k24 | kAie);
    CHECK(clock.armed_timers() == 0);
    clock.advance(2 * 86'400 * kSecond);
    CHECK_FALSE(line.level());
    set(kB, k24);
  }
}

TEST_CASE_FIXTURE(Machine, "the periodic interrupt has the rate of register A") {
  // Rate, and ticks in one second.
  for (const auto& [rate, hertz] : {std::pair{1U, 256U}, {2U, 128U}, {3U, 8192U}, {6U, 1024U}, {15U, 2U}}) {
    set(kA, 0x20 | rate);
    get(kC);
    const unsigned before = line.rising_edges();
    set(kB, k24 | kPie);
    // From one deadline to the next: a tick that its own deadline does not pass would come twice.
    const std::uint64_t end = clock.monotonic_ns() + kSecond;
    for (unsigned i = 0; i <= hertz && clock.next_deadline() <= end; ++i) {
      clock.advance(clock.next_deadline() - clock.monotonic_ns());
      get(kC);
    }
    clock.advance(end - clock.monotonic_ns());
    CHECK(line.rising_edges() - before == hertz);
    set(kB, k24);
  }
}

TEST_CASE_FIXTURE(Machine, "periodic ticks are not sent while the guest does not read") {
  set(kB, k24 | kPie);
  clock.advance(10 * kSecond);
  CHECK(line.rising_edges() == 1);
  CHECK(clock.armed_timers() == 0);
}

TEST_CASE_FIXTURE(Machine, "rate 0 and a held divider tick never") {
  for (const unsigned a : {0x20U, unsigned{kDividerReset} | 6U}) {
    set(kA, a);
    get(kC);
    set(kB, k24 | kPie);
    CHECK(clock.armed_timers() == 0);
    clock.advance(kSecond);
    CHECK((get(kC) & kPie) == 0);
    set(kB, k24);
  }
}

TEST_CASE_FIXTURE(Machine, "memory sizes are where firmware looks, the rest of the RAM is the guest's") {
  CHECK(get(0x34) == 0x00);
  CHECK(get(0x35) == 0xbf);  // (3 GiB - 16 MiB) / 64 KiB
  CHECK(get(0x5b) == 0x56);
  CHECK(get(0x5c) == 0x34);
  CHECK(get(0x5d) == 0x12);
  for (unsigned i = 0x0e; i < 0x80; ++i) {
    if (i != kCentury) set(static_cast<std::uint8_t>(i), i ^ 0xa5);
  }
  for (unsigned i = 0x0e; i < 0x80; ++i) {
    if (i != kCentury) CHECK(get(static_cast<std::uint8_t>(i)) == (i ^ 0xa5));
  }
}

TEST_CASE("memory sizes that do not fit are as large as they can be, small ones zero") {
  FakeClock clock;
  FakeInterruptLine line;
  CmosRtc huge(clock, line, {.ram_below_4g = ~0ULL, .ram_above_4g = ~0ULL});
  CmosRtc tiny(clock, line, {.ram_below_4g = 1ULL << 20, .ram_above_4g = 0});
  for (const std::uint64_t index : {0x34ULL, 0x35ULL, 0x5bULL, 0x5cULL, 0x5dULL}) {
    huge.write(0, 1, index);
    CHECK(huge.read(1, 1) == 0xff);
    tiny.write(0, 1, index);
    CHECK(tiny.read(1, 1) == 0);
  }
}

TEST_CASE_FIXTURE(Machine, "the NMI bit of the index is ignored, registers C and D are read-only") {
  set(0x80 | 0x40, 0x77);
  CHECK(get(0x40) == 0x77);
  set(kC, 0xff);
  set(kD, 0x00);
  CHECK(get(kC) == 0);
  CHECK(get(kD) == 0x80);
}

TEST_CASE_FIXTURE(Machine, "the index port, other offsets and widths read all ones and write nothing") {
  rtc.write(0, 1, 0x40);
  const auto before = rtc.save();
  for (std::uint64_t offset = 0; offset < 4; ++offset) {
    for (const unsigned width : {1U, 2U, 4U, 8U}) {
      if (offset == 1 && width == 1) continue;
      CHECK(rtc.read(offset, width) == all_ones(width));
      if (offset != 0 || width != 1) rtc.write(offset, width, 0x41);
    }
  }
  CHECK(rtc.save()->value == before->value);
}

TEST_CASE_FIXTURE(Machine, "reset forgets time, RAM and interrupts, and lowers the line") {
  set(kB, k24 | kUie);
  set(2, 0x55);
  set(0x40, 0x12);
  clock.advance(kSecond);
  REQUIRE(line.level());
  rtc.reset();
  CHECK_FALSE(line.level());
  CHECK(clock.armed_timers() == 0);
  CHECK(get(0x40) == 0);
  CHECK(get(2) == 0x07);
}
