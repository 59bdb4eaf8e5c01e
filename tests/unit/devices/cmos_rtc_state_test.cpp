#include <cstdint>
#include <limits>

#include <doctest/doctest.h>

#include "proto/state.pb.h"
#include "tests/unit/devices/cmos_rtc_fixture.h"

using namespace vmmd;
using namespace vmmd::testing::rtc;

TEST_CASE_FIXTURE(Machine, "a cold RTC takes over every field and follows its own host's clock") {
  set(kB, kSet | kBinary);
  set(kA, kDividerReset | 6);
  set_time({20, 31, 7, 21, 3, 0x80 | 5, 43, 12});
  set(kA, 0x2f);
  set_alarm(0x80 | 6, 1, 2);
  set(kB, kBinary | kAie | kPie);
  set(0x51, 0x9c);
  clock.advance(kSecond * 3 / 4);
  REQUIRE(line.level());
  rtc.write(0, 1, 0x51);
  const auto saved = rtc.save();

  Machine cold(kNow + 1'000'000'000'000);  // the snapshot lay there for 1000 s less what passed
  cold.clock.set_monotonic_ns(clock.monotonic_ns());
  REQUIRE(cold.rtc.restore(*saved));
  CHECK(cold.line.level());
  CHECK(cold.rtc.read(1, 1) == 0x9c);
  CHECK(cold.get(kA) == 0x2f);
  CHECK(cold.get(kB) == (kBinary | kAie | kPie));
  CHECK(cold.get(5) == (0x80 | 6));
  CHECK(cold.get(3) == 1);
  CHECK(cold.get(1) == 2);
  // 17:43:12 was set half a second before a first update at wall clock kNow + 0.5 s; now it is kNow + 1000 s.
  CHECK(cold.time() == Time{20, 31, 7, 21, 3, 0x80 | 5, 59, 52});
  CHECK(cold.get(kC) == (0x80 | kPie | kUie));
  cold.clock.advance(kSecond / 2);
  CHECK(cold.line.level());  // the periodic interrupt goes on
}

TEST_CASE_FIXTURE(Machine, "every field of the state survives save, restore and save") {
  state::CmosRtc message;
  REQUIRE(message.ParseFromString(rtc.save()->value));
  for (std::size_t i = 0; i < 128; ++i) {
    if (i < 10 || i > 13) (*message.mutable_ram())[i] = static_cast<char>(0x11 + i);
  }
  (*message.mutable_ram())[kA] = 0x6d;
  (*message.mutable_ram())[kB] = static_cast<char>(0xc6);  // SET: time and alarm stand still
  (*message.mutable_ram())[kC] = static_cast<char>(0xf0);
  message.set_index(0x7e);
  message.set_offset_s(-1'234'567);
  message.set_phase_ns(987'654'321);
  message.set_weekday_shift(6);
  message.set_seen_second(1'700'000'001);
  message.set_seen_ns(clock.monotonic_ns());
  const UnitState state = pack_state(message);
  Machine cold;
  REQUIRE(cold.rtc.restore(state));
  CHECK(cold.rtc.save()->value == state.value);
  CHECK(cold.line.level());
}

TEST_CASE_FIXTURE(Machine, "a cold RTC counts periodic ticks from where the saved one looked last") {
  set(kA, 0x2f);  // 2 Hz
  clock.advance(kSecond / 4);
  get(kC);
  const auto saved = rtc.save();
  Machine cold;
  cold.clock.set_monotonic_ns(clock.monotonic_ns());
  REQUIRE(cold.rtc.restore(*saved));
  CHECK((cold.get(kC) & kPie) == 0);
  cold.clock.advance(kSecond / 2);
  CHECK((cold.get(kC) & kPie) != 0);
}

TEST_CASE_FIXTURE(Machine, "an alarm that passed while the VM did not exist fires at restore") {
  set_alarm(0x15, 0x00, 0x00);
  get(kC);
  set(kB, k24 | kAie);
  const auto saved = rtc.save();
  Machine late(kNow + std::int64_t{2 * 3600} * 1'000'000'000);
  REQUIRE(late.rtc.restore(*saved));
  CHECK(late.line.level());
  Machine early(kNow + std::int64_t{60} * 1'000'000'000);
  REQUIRE(early.rtc.restore(*saved));
  CHECK_FALSE(early.line.level());
  early.clock.advance((51 * 60 + 51) * kSecond);
  CHECK(early.line.level());
}

TEST_CASE_FIXTURE(Machine, "an alarm that passed during a pause fires at resync") {
  set_alarm(0x15, 0x00, 0x00);
  set(kB, k24 | kAie);
  clock.set_realtime_ns(kNow + std::int64_t{3600} * 1'000'000'000);
  CHECK_FALSE(line.level());
  rtc.resync();
  CHECK(line.level());
}

TEST_CASE_FIXTURE(Machine, "a host clock that is set back fires nothing") {
  get(kC);
  set_alarm(0x14, 0x07, 0x00);
  set(kB, k24 | kAie | kUie);
  clock.set_realtime_ns(kNow - std::int64_t{3600} * 1'000'000'000);
  rtc.resync();
  CHECK_FALSE(line.level());
  clock.advance(kSecond);
  CHECK((get(kC) & (kAie | kUie)) == kUie);
}

TEST_CASE_FIXTURE(Machine, "a state that no RTC can have is refused and changes nothing") {
  set(kB, k24 | kAie);
  const auto before = rtc.save();
  const auto refused = [&](auto spoil) {
    state::CmosRtc bad;
    REQUIRE(bad.ParseFromString(before->value));
    spoil(bad);
    const Status status = rtc.restore(pack_state(bad));
    REQUIRE_FALSE(status);
    CHECK(status.error().code == ErrorCode::BadRequest);
    CHECK(rtc.save()->value == before->value);
  };
  refused([](state::CmosRtc& m) { m.set_index(0x80); });
  refused([](state::CmosRtc& m) { m.mutable_ram()->pop_back(); });
  refused([](state::CmosRtc& m) { m.mutable_ram()->push_back('x'); });
  refused([](state::CmosRtc& m) { m.set_phase_ns(1'000'000'000); });
  refused([](state::CmosRtc& m) { m.set_weekday_shift(7); });
  refused([](state::CmosRtc& m) { m.set_offset_s(std::numeric_limits<std::int64_t>::min()); });
  refused([](state::CmosRtc& m) { m.set_seen_second(std::numeric_limits<std::int64_t>::max()); });
  refused([](state::CmosRtc& m) { (*m.mutable_ram())[kA] = static_cast<char>(0xa6); });
  refused([](state::CmosRtc& m) { (*m.mutable_ram())[kC] = 1; });
  refused([](state::CmosRtc& m) { (*m.mutable_ram())[kD] = 0; });
}
