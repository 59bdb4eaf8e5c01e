#include <array>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>

#include "devices/chipset/acpi_pm_timer.h"
#include "devices/chipset/acpi_power.h"
#include "devices/chipset/generic_event_device.h"
#include "devices/chipset/vmgenid.h"
#include "proto/state.pb.h"
#include "tests/unit/support/fake_clock.h"
#include "tests/unit/support/fake_interrupt.h"
#include "tests/unit/support/fake_power.h"

using namespace vmmd;
using namespace vmmd::devices;
using vmmd::testing::FakeClock;
using vmmd::testing::FakeInterruptLine;
using vmmd::testing::FakePowerSink;

namespace {

constexpr std::uint8_t kSleepEnable = 0x20;
constexpr std::uint8_t sleep_type(unsigned type) {
  return static_cast<std::uint8_t>(type << 2);
}

struct Power {
  FakePowerSink sink;
  AcpiPower power{sink, {.reset_value = 0x3c, .s5_sleep_type = 6}};
};
struct PmTimer {
  FakeClock clock;
  AcpiPmTimer timer{clock};
  std::uint64_t ticks() { return timer.read(0, 4); }
};
struct Ged {
  FakeInterruptLine line;
  GenericEventDevice ged{line};
};
struct GenId : Ged {
  std::vector<std::byte> ram = std::vector<std::byte>(0x2000);
  GuestMemory memory{{{GuestAddress(0x1000), 0x2000, ram.data()}}};
  VmGenId vmgenid{memory, ged};
  static constexpr VmGenId::Id kFirst = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  static constexpr VmGenId::Id kSecond = {0xf1, 0xe2, 0xd3, 0xc4, 0xb5, 0xa6, 0x97, 0x88,
                                          0x79, 0x6a, 0x5b, 0x4c, 0x3d, 0x2e, 0x1f, 0x10};
  [[nodiscard]] VmGenId::Id in_memory(std::uint64_t address) const {
    return *memory.load<VmGenId::Id>(GuestAddress(address));
  }
};

}  // namespace

TEST_CASE_FIXTURE(Power, "only the reset value resets") {
  for (unsigned value = 0; value < 256; ++value) {
    if (value != 0x3c) power.write(AcpiPower::kResetOffset, 1, value);
  }
  CHECK(sink.resets == 0);
  power.write(AcpiPower::kResetOffset, 1, 0x3c);
  CHECK(sink.resets == 1);
  CHECK(sink.shutdowns == 0);
}

TEST_CASE_FIXTURE(Power, "S5 powers off only with its sleep type and SLP_EN") {
  for (unsigned value = 0; value < 256; ++value) {
    const bool s5 = (value & 0x3c) == (sleep_type(6) | kSleepEnable);
    if (!s5) power.write(AcpiPower::kSleepControlOffset, 1, value);
  }
  CHECK(sink.shutdowns == 0);
  power.write(AcpiPower::kSleepControlOffset, 1, sleep_type(6) | kSleepEnable);
  CHECK(sink.shutdowns == 1);
  CHECK(sink.resets == 0);
}

TEST_CASE_FIXTURE(Power, "SLP_EN reads as zero, the sleep type as written, the wake status as clear") {
  power.write(AcpiPower::kSleepControlOffset, 1, sleep_type(3) | kSleepEnable | 0xc3);
  CHECK(power.read(AcpiPower::kSleepControlOffset, 1) == sleep_type(3));
  power.write(AcpiPower::kSleepStatusOffset, 1, 0xff);
  CHECK(power.read(AcpiPower::kSleepStatusOffset, 1) == 0);
  CHECK(power.read(AcpiPower::kResetOffset, 1) == 0);
}

TEST_CASE_FIXTURE(Power, "other offsets and widths of the power registers read all ones and do nothing") {
  for (std::uint64_t offset = 0; offset < 8; ++offset) {
    for (const unsigned width : {1U, 2U, 4U, 8U}) {
      if (offset < AcpiPower::kSize && width == 1) continue;
      power.write(offset, width, 0x3c);
      power.write(offset, width, sleep_type(6) | kSleepEnable);
      CHECK(power.read(offset, width) == all_ones(width));
    }
  }
  CHECK(sink.resets == 0);
  CHECK(sink.shutdowns == 0);
}

TEST_CASE_FIXTURE(Power,
                  "a cold power device takes over the sleep type, asks for nothing, and refuses another") {
  power.write(AcpiPower::kSleepControlOffset, 1, sleep_type(6) | kSleepEnable);
  const auto saved = power.save();
  Power cold;
  REQUIRE(cold.power.restore(*saved));
  CHECK(cold.power.read(AcpiPower::kSleepControlOffset, 1) == sleep_type(6));
  CHECK(cold.sink.shutdowns == 0);
  state::AcpiPower bad;
  bad.set_sleep_type(8);
  CHECK(cold.power.restore(pack_state(bad)).error().code == ErrorCode::BadRequest);
  CHECK(cold.power.save()->value == saved->value);
  cold.power.reset();
  CHECK(cold.power.read(AcpiPower::kSleepControlOffset, 1) == 0);
}

TEST_CASE_FIXTURE(PmTimer, "the PM timer counts 3.579545 MHz from power-on") {
  CHECK(ticks() == 0);
  clock.advance(1'000'000'000);
  CHECK(ticks() == 3'579'545);
  clock.advance(1'000'000);
  CHECK(ticks() == 3'579'545 + 3'579);
}

TEST_CASE_FIXTURE(PmTimer, "the PM timer wraps at 32 bits and keeps its rate for years") {
  constexpr std::uint64_t kYears = 100ULL * 365 * 86'400;  // seconds
  clock.advance(kYears * 1'000'000'000);
  CHECK(ticks() == (kYears * 3'579'545 & 0xffff'ffff));
}

TEST_CASE_FIXTURE(PmTimer, "narrow reads give the bytes of the counter, reads beyond it all ones") {
  clock.advance(77'000'000'000);
  const std::uint64_t value = ticks();
  REQUIRE(value > 0x0100'0000);
  for (const unsigned width : {1U, 2U, 4U, 8U}) {
    for (std::uint64_t offset = 0; offset < 8; ++offset) {
      const std::uint64_t expected =
          offset + width <= 4 ? (value >> (8 * offset)) & all_ones(width) : all_ones(width);
      CHECK(timer.read(offset, width) == expected);
      timer.write(offset, width, 0);
    }
  }
  CHECK(ticks() == value);
}

TEST_CASE_FIXTURE(PmTimer, "a cold PM timer goes on where the saved one was, whatever its own start") {
  clock.advance(123'456'789);
  const auto saved = timer.save();
  const std::uint64_t then = ticks();
  FakeClock other;
  other.set_monotonic_ns(clock.monotonic_ns());
  AcpiPmTimer cold(other);
  REQUIRE(cold.restore(*saved));
  CHECK(cold.read(0, 4) == then);
  CHECK(cold.save()->value == saved->value);
  cold.reset();
  CHECK(cold.read(0, 4) == 0);
}

TEST_CASE_FIXTURE(Ged, "an event pulses the line and stays pending until it is read") {
  ged.power_button();
  CHECK(line.rising_edges() == 1);
  CHECK_FALSE(line.level());
  ged.notify(GedEvent::VmGenerationId);
  CHECK(line.rising_edges() == 2);
  CHECK(ged.read(0, 4) == 3);
  CHECK(ged.read(0, 4) == 0);
}

TEST_CASE_FIXTURE(Ged, "other offsets and widths of the selector lose no event") {
  ged.power_button();
  for (std::uint64_t offset = 0; offset < 8; ++offset) {
    for (const unsigned width : {1U, 2U, 4U, 8U}) {
      ged.write(offset, width, ~0ULL);
      if (offset == 0 && width == 4) continue;
      CHECK(ged.read(offset, width) == all_ones(width));
    }
  }
  CHECK(ged.read(0, 4) == 1);
}

TEST_CASE_FIXTURE(Ged, "a cold event device tells its guest of what is still pending") {
  ged.notify(GedEvent::VmGenerationId);
  ged.notify(GedEvent::MemoryHotplug);
  const auto saved = ged.save();
  Ged cold;
  REQUIRE(cold.ged.restore(*saved));
  CHECK(cold.line.rising_edges() == 1);
  CHECK(cold.ged.save()->value == saved->value);
  CHECK(cold.ged.read(0, 4) == 0xa);
  Ged idle;
  REQUIRE(idle.ged.restore(*cold.ged.save()));
  CHECK(idle.line.rising_edges() == 0);
}

TEST_CASE_FIXTURE(Ged, "unknown events are refused, reset forgets the known ones") {
  ged.power_button();
  state::GenericEventDevice bad;
  bad.set_pending(0x10);
  CHECK(ged.restore(pack_state(bad)).error().code == ErrorCode::BadRequest);
  CHECK(line.rising_edges() == 1);
  ged.reset();
  CHECK(ged.read(0, 4) == 0);
}

TEST_CASE_FIXTURE(GenId, "placing the id writes it and tells nobody") {
  REQUIRE(vmgenid.place(GuestAddress(0x1ff8), kFirst));
  CHECK(in_memory(0x1ff8) == kFirst);
  CHECK(vmgenid.id() == kFirst);
  CHECK(line.rising_edges() == 0);
}

TEST_CASE_FIXTURE(GenId, "a new id is in memory when the guest is told") {
  struct Checker final : InterruptLine {
    const GuestMemory* memory = nullptr;
    VmGenId::Id seen{};
    void set_level(bool high) override {
      if (high) seen = *memory->load<VmGenId::Id>(GuestAddress(0x1008));
    }
  } checker;
  checker.memory = &memory;
  GenericEventDevice checked_ged(checker);
  VmGenId checked(memory, checked_ged);
  REQUIRE(checked.place(GuestAddress(0x1008), kFirst));
  REQUIRE(checked.set_id(kSecond));
  CHECK(checker.seen == kSecond);
  CHECK(checked_ged.read(0, 4) == 2);
}

TEST_CASE_FIXTURE(GenId, "an id can only lie aligned and in RAM, and be replaced where it lies") {
  CHECK(vmgenid.set_id(kSecond).error().code == ErrorCode::WrongState);
  for (const std::uint64_t bad : {0x0ULL, 0x1004ULL, 0xff8ULL, 0x2ff8ULL, 0x3000ULL, ~0ULL - 7}) {
    CHECK(vmgenid.place(GuestAddress(bad), kFirst).error().code == ErrorCode::BadRequest);
  }
  CHECK(vmgenid.set_id(kSecond).error().code == ErrorCode::WrongState);
}

TEST_CASE_FIXTURE(GenId, "a cold unit knows id and place, and writes the next id there") {
  REQUIRE(vmgenid.place(GuestAddress(0x2010), kFirst));
  const auto saved = vmgenid.save();
  GenId cold;
  REQUIRE(cold.vmgenid.restore(*saved));
  CHECK(cold.vmgenid.id() == kFirst);
  CHECK(cold.vmgenid.save()->value == saved->value);
  CHECK(cold.line.rising_edges() == 0);
  REQUIRE(cold.vmgenid.set_id(kSecond));
  CHECK(cold.in_memory(0x2010) == kSecond);
}

TEST_CASE_FIXTURE(GenId, "a short id or a place outside RAM is refused and changes nothing") {
  REQUIRE(vmgenid.place(GuestAddress(0x2010), kFirst));
  const auto before = vmgenid.save();
  state::VmGenId bad;
  REQUIRE(bad.ParseFromString(before->value));
  bad.mutable_id()->pop_back();
  CHECK(vmgenid.restore(pack_state(bad)).error().code == ErrorCode::BadRequest);
  REQUIRE(bad.ParseFromString(before->value));
  bad.set_address(0x2ff8);
  CHECK(vmgenid.restore(pack_state(bad)).error().code == ErrorCode::BadRequest);
  CHECK(vmgenid.save()->value == before->value);
}

TEST_CASE_FIXTURE(GenId, "a machine without an id saves and restores that") {
  const auto saved = vmgenid.save();
  GenId other;
  REQUIRE(other.vmgenid.place(GuestAddress(0x1000), kFirst));
  REQUIRE(other.vmgenid.restore(*saved));
  CHECK(other.vmgenid.set_id(kSecond).error().code == ErrorCode::WrongState);
}
