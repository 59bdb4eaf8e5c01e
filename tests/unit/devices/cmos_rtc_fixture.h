#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "devices/chipset/cmos_rtc.h"
#include "tests/unit/support/fake_clock.h"
#include "tests/unit/support/fake_interrupt.h"

// An RTC with a clock and a line of its own, as both files of its tests use it.
namespace vmmd::testing::rtc {

using namespace vmmd::devices;

inline constexpr std::uint64_t kSecond = 1'000'000'000;
// Thursday, 2026-03-05 14:07:09 UTC.
inline constexpr std::int64_t kNow = 1'772'719'629LL * 1'000'000'000;

inline constexpr std::uint8_t kA = 0x0a, kB = 0x0b, kC = 0x0c, kD = 0x0d, kCentury = 0x32;
inline constexpr std::uint8_t kSet = 0x80, kPie = 0x40, kAie = 0x20, kUie = 0x10, kBinary = 0x04, k24 = 0x02;
inline constexpr std::uint8_t kDividerReset = 0x70, kRunning = 0x26;

using Time = std::array<unsigned, 8>;  // century, year, month, day, day of week, hours, minutes, seconds
inline constexpr std::array<std::uint8_t, 8> kTimeRegisters = {kCentury, 9, 8, 7, 6, 4, 2, 0};

struct Machine {
  explicit Machine(std::int64_t realtime = kNow) {
    clock.set_realtime_ns(realtime);
    rtc.reset();
  }
  FakeClock clock;
  FakeInterruptLine line;
  CmosRtc rtc{clock, line, {.ram_below_4g = 0xC000'0000, .ram_above_4g = 0x12'3456'0000}};

  std::uint8_t get(std::uint8_t index) {
    rtc.write(0, 1, index);
    return static_cast<std::uint8_t>(rtc.read(1, 1));
  }
  void set(std::uint8_t index, unsigned value) {
    rtc.write(0, 1, index);
    rtc.write(1, 1, value);
  }
  Time time() {
    Time t{};
    for (std::size_t i = 0; i < t.size(); ++i) t.at(i) = get(kTimeRegisters.at(i));
    return t;
  }
  void set_time(const Time& t) {
    for (std::size_t i = 0; i < t.size(); ++i) set(kTimeRegisters.at(i), t.at(i));
  }
  void set_alarm(unsigned hours, unsigned minutes, unsigned seconds) {
    set(5, hours);
    set(3, minutes);
    set(1, seconds);
  }
};

inline constexpr Time kNowBcd = {0x20, 0x26, 0x03, 0x05, 5, 0x14, 0x07, 0x09};

}  // namespace vmmd::testing::rtc
