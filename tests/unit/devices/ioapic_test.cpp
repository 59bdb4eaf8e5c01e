#include "devices/chipset/ioapic.h"

#include <atomic>
#include <map>
#include <optional>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "proto/state.pb.h"
#include "tests/unit/support/fake_interrupt.h"

using namespace vmmd;
using namespace vmmd::devices;
using vmmd::testing::FakeMsiSink;

namespace {

constexpr std::uint64_t kSelect = 0x00;
constexpr std::uint64_t kWindow = 0x10;
constexpr std::uint64_t kEoi = 0x40;
constexpr std::uint64_t kMasked = 1UL << 16;
constexpr std::uint64_t kLevel = 1UL << 15;
constexpr std::uint64_t kRemoteIrr = 1ULL << 14;
constexpr std::uint64_t kActiveLow = 1ULL << 13;
constexpr std::uint64_t kLogical = 1ULL << 11;

constexpr std::uint64_t destination(std::uint8_t apic_id) {
  return std::uint64_t{apic_id} << 56;
}
constexpr std::uint64_t mode(unsigned m) {
  return std::uint64_t{m} << 8;
}

struct FakeRoutes final : IoapicRoutes {
  std::map<unsigned, std::optional<MsiMessage>> routes;
  unsigned calls = 0;
  unsigned batches = 0;
  void set_route(unsigned pin, std::optional<MsiMessage> message) override {
    ++calls;
    routes[pin] = message;
  }
  void set_routes(std::span<const std::optional<MsiMessage>> messages) override {
    ++batches;
    for (unsigned pin = 0; pin < messages.size(); ++pin) routes[pin] = messages[pin];
  }
};

struct Machine {
  FakeMsiSink sink;
  FakeRoutes routes;
  Ioapic ioapic{sink, routes};

  void select(std::uint8_t reg) { ioapic.write(kSelect, 4, reg); }
  std::uint32_t read_reg(std::uint8_t reg) {
    select(reg);
    return static_cast<std::uint32_t>(ioapic.read(kWindow, 4));
  }
  void write_reg(std::uint8_t reg, std::uint32_t value) {
    select(reg);
    ioapic.write(kWindow, 4, value);
  }
  void program(unsigned pin, std::uint64_t entry) {
    const auto reg = static_cast<std::uint8_t>(0x10 + 2 * pin);
    write_reg(reg, kMasked);
    write_reg(static_cast<std::uint8_t>(reg + 1), static_cast<std::uint32_t>(entry >> 32));
    write_reg(reg, static_cast<std::uint32_t>(entry));
  }
  std::uint64_t entry(unsigned pin) {
    const auto reg = static_cast<std::uint8_t>(0x10 + 2 * pin);
    return read_reg(reg) | std::uint64_t{read_reg(static_cast<std::uint8_t>(reg + 1))} << 32;
  }
};

/// Lowers (or keeps) a line when the guest ended its interrupt.
struct Resampler final : ResampleListener {
  explicit Resampler(InterruptLine& l) : line(l) {}
  InterruptLine& line;
  bool still_asserted = false;
  unsigned calls = 0;
  void on_end_of_interrupt() override {
    ++calls;
    line.set_level(false);
    if (still_asserted) line.set_level(true);
  }
};

}  // namespace

TEST_CASE_FIXTURE(Machine, "the version register tells of 24 pins and an EOI register") {
  CHECK(read_reg(1) == 0x0017'0020);
}

TEST_CASE_FIXTURE(Machine, "power-on: every pin is masked and has no route") {
  for (unsigned pin = 0; pin < Ioapic::kPins; ++pin) CHECK(entry(pin) == kMasked);
  CHECK(routes.calls == 0);
  CHECK(routes.batches == 0);
}

TEST_CASE_FIXTURE(Machine, "the id keeps its four bits and shows in the arbitration register") {
  write_reg(0, 0xffff'ffff);
  CHECK(read_reg(0) == 0x0f00'0000);
  write_reg(0, 0x0500'0000);
  CHECK(read_reg(2) == 0x0500'0000);
}

TEST_CASE_FIXTURE(Machine, "only the writable bits of an entry take what the guest writes") {
  program(3, ~0ULL);
  CHECK(entry(3) == 0xff00'0000'0001'afff);
}

TEST_CASE_FIXTURE(Machine, "an edge is sent once, at the rising side, with vector and destination") {
  program(4, 0x31 | destination(0x12));
  ioapic.line(4).set_level(true);
  ioapic.line(4).set_level(true);
  ioapic.line(4).set_level(false);
  CHECK(sink.take() == std::vector<MsiMessage>{{0xfee1'2000, 0x31}});
  CHECK(entry(4) == (0x31 | destination(0x12)));
  ioapic.line(4).pulse();
  CHECK(sink.take().size() == 1);
}

TEST_CASE_FIXTURE(Machine, "destination mode and delivery modes appear in the message") {
  program(5, 0x42 | kLogical | mode(1) | destination(0x83));
  ioapic.line(5).pulse();
  CHECK(sink.take() == std::vector<MsiMessage>{{0xfee8'3004, 0x142}});
  for (const unsigned m : {2U, 4U, 5U}) {  // SMI, NMI, INIT
    program(5, mode(m) | destination(1));
    ioapic.line(5).pulse();
    CHECK(sink.take() == std::vector<MsiMessage>{{0xfee0'1000, m << 8}});
  }
}

TEST_CASE_FIXTURE(Machine,
                  "reserved delivery modes, ExtINT and vectors below 16 are not sent and have no route") {
  for (const std::uint64_t bad :
       {0x31 | mode(3), 0x31 | mode(6), 0x31 | mode(7), 0x0f | mode(0), 0x0f | kLevel}) {
    program(6, bad);
    ioapic.line(6).pulse();
    CHECK(sink.take().empty());
    CHECK_FALSE(routes.routes[6].has_value());
    CHECK((entry(6) & kRemoteIrr) == 0);
  }
}

TEST_CASE_FIXTURE(Machine, "polarity is kept but inverts nothing") {
  program(7, 0x55 | kActiveLow);
  CHECK(sink.take().empty());
  ioapic.line(7).pulse();
  CHECK(sink.take().size() == 1);
  CHECK((entry(7) & kActiveLow) != 0);
}

TEST_CASE_FIXTURE(Machine, "an edge on a masked pin is lost") {
  program(8, 0x61 | kMasked);
  ioapic.line(8).set_level(true);
  program(8, 0x61);
  CHECK(sink.take().empty());
}

TEST_CASE_FIXTURE(Machine, "a level is sent once until its EOI, and sets remote IRR") {
  program(16, 0x71 | kLevel | destination(2));
  ioapic.line(16).set_level(true);
  ioapic.line(16).set_level(false);
  ioapic.line(16).set_level(true);
  CHECK(sink.take() == std::vector<MsiMessage>{{0xfee0'2000, 0xc071}});
  CHECK((entry(16) & kRemoteIrr) != 0);
}

TEST_CASE_FIXTURE(Machine, "an EOI ends a level interrupt whose line went down, and only of its vector") {
  program(16, 0x71 | kLevel);
  ioapic.line(16).set_level(true);
  ioapic.line(16).set_level(false);
  sink.take();
  ioapic.end_of_interrupt(0x72);
  CHECK((entry(16) & kRemoteIrr) != 0);
  ioapic.end_of_interrupt(0x71);
  CHECK((entry(16) & kRemoteIrr) == 0);
  CHECK(sink.take().empty());
}

TEST_CASE_FIXTURE(Machine, "a level that is still asserted at its EOI is sent again") {
  program(16, 0x71 | kLevel);
  ioapic.line(16).set_level(true);
  sink.take();
  ioapic.end_of_interrupt(0x71);
  CHECK(sink.take().size() == 1);
  CHECK((entry(16) & kRemoteIrr) != 0);
}

TEST_CASE_FIXTURE(Machine, "one EOI serves all pins that share the vector") {
  program(16, 0x71 | kLevel);
  program(17, 0x71 | kLevel);
  ioapic.line(16).set_level(true);
  ioapic.line(17).set_level(true);
  ioapic.line(16).set_level(false);
  ioapic.line(17).set_level(false);
  ioapic.end_of_interrupt(0x71);
  CHECK((entry(16) & kRemoteIrr) == 0);
  CHECK((entry(17) & kRemoteIrr) == 0);
}

TEST_CASE_FIXTURE(Machine, "the EOI register ends an interrupt as the LAPIC's message does") {
  program(18, 0x91 | kLevel);
  ioapic.line(18).set_level(true);
  ioapic.line(18).set_level(false);
  ioapic.write(kEoi, 4, 0x91);
  CHECK((entry(18) & kRemoteIrr) == 0);
}

TEST_CASE_FIXTURE(Machine, "a level that rose while masked is sent at unmask") {
  program(19, 0xa1 | kLevel | kMasked);
  ioapic.line(19).set_level(true);
  CHECK(sink.take().empty());
  program(19, 0xa1 | kLevel);
  CHECK(sink.take().size() == 1);
}

TEST_CASE_FIXTURE(Machine, "writing remote IRR does nothing, switching to edge clears it") {
  program(20, 0xb1 | kLevel | kRemoteIrr);
  CHECK((entry(20) & kRemoteIrr) == 0);
  ioapic.line(20).set_level(true);
  ioapic.line(20).set_level(false);
  write_reg(0x10 + 40, static_cast<std::uint32_t>(0xb1 | kMasked | kLevel));
  CHECK((entry(20) & kRemoteIrr) != 0);
  write_reg(0x10 + 40, static_cast<std::uint32_t>(0xb1 | kMasked));
  CHECK((entry(20) & kRemoteIrr) == 0);
}

TEST_CASE_FIXTURE(Machine,
                  "a resample listener hears the EOI, and what it keeps asserted is sent once more") {
  program(21, 0xc1 | kLevel);
  Resampler resampler(ioapic.line(21));
  ioapic.add_resample_listener(21, resampler);
  ioapic.line(21).set_level(true);
  sink.take();
  resampler.still_asserted = true;
  ioapic.end_of_interrupt(0xc1);
  CHECK(resampler.calls == 1);
  CHECK(sink.take().size() == 1);
  resampler.still_asserted = false;
  ioapic.end_of_interrupt(0xc1);
  CHECK(resampler.calls == 2);
  CHECK(sink.take().empty());
  ioapic.line(21).set_level(true);
  ioapic.remove_resample_listener(21, resampler);
  ioapic.end_of_interrupt(0xc1);
  CHECK(resampler.calls == 2);
}

TEST_CASE_FIXTURE(Machine, "a route follows its entry, and is told only where it changed") {
  program(9, 0x51 | destination(3));
  CHECK(routes.routes[9] == MsiMessage{0xfee0'3000, 0x51});
  const unsigned calls = routes.calls;
  write_reg(0x10 + 18, 0x51);
  CHECK(routes.calls == calls);
  write_reg(0x10 + 18, 0x51 | static_cast<std::uint32_t>(kMasked));
  CHECK_FALSE(routes.routes[9].has_value());
}

TEST_CASE_FIXTURE(Machine, "a pin masked in service keeps its route until the EOI") {
  program(22, 0xd1 | kLevel);
  ioapic.line(22).set_level(true);
  write_reg(0x10 + 44, static_cast<std::uint32_t>(0xd1 | kLevel | kMasked));
  CHECK(routes.routes[22] == MsiMessage{0xfee0'0000, 0xc0d1});
  ioapic.end_of_interrupt(0xd1);
  CHECK_FALSE(routes.routes[22].has_value());
  CHECK(sink.take().size() == 1);  // masked: not sent again although still asserted
}

TEST_CASE_FIXTURE(Machine, "the route is in place before the interrupt is sent") {
  struct Checker final : MsiSink {
    FakeRoutes* routes = nullptr;
    bool routed = false;
    void signal(MsiMessage message) override { routed = routes->routes[2] == message; }
  } checker;
  checker.routes = &routes;
  Ioapic other(checker, routes);
  other.line(2).set_level(true);
  other.write(kSelect, 4, 0x14);
  other.write(kWindow, 4, 0x41 | kLevel);
  CHECK(checker.routed);
}

TEST_CASE_FIXTURE(Machine, "other registers, offsets and widths read all ones and write nothing") {
  program(23, 0xe1);
  const std::uint64_t before = entry(23);
  for (unsigned reg = 0; reg < 256; ++reg) {
    if (reg <= 2 || (reg >= 0x10 && reg < 0x10 + 2 * Ioapic::kPins)) continue;
    write_reg(static_cast<std::uint8_t>(reg), 0x1234'5678);
    CHECK(read_reg(static_cast<std::uint8_t>(reg)) == 0xffff'ffff);
  }
  select(0x10 + 46);
  for (std::uint64_t offset = 0; offset < 0x100; ++offset) {
    for (const unsigned width : {1U, 2U, 4U, 8U}) {
      const bool is_select = offset == kSelect && (width == 1 || width == 4);
      const bool is_window = offset == kWindow && width == 4;
      if (is_select || is_window) continue;
      if (!(offset == kEoi && width != 2 && width != 8)) ioapic.write(offset, width, 0xa5a5'a5a5'a5a5'a5a5);
      CHECK(ioapic.read(offset, width) == all_ones(width));
    }
  }
  CHECK(entry(23) == before);
  CHECK(sink.take().empty());
}

TEST_CASE_FIXTURE(
    Machine, "a cold IOAPIC takes over every field, pushes its routes in one batch and sends nothing twice") {
  write_reg(0, 0x0900'0000);
  program(16, 0x71 | kLevel | kActiveLow | destination(0x21));
  ioapic.line(16).set_level(true);
  program(4, 0x31 | kLogical | mode(1) | destination(0x43));
  ioapic.line(4).set_level(true);
  select(0x29);
  const auto saved = ioapic.save();
  REQUIRE(saved);

  Machine cold;
  REQUIRE(cold.ioapic.restore(*saved));
  CHECK(cold.sink.take().empty());
  CHECK(cold.routes.batches == 1);
  CHECK(cold.routes.calls == 0);
  CHECK(cold.routes.routes[16] == routes.routes[16]);
  CHECK(cold.routes.routes[4] == routes.routes[4]);
  CHECK_FALSE(cold.routes.routes[5].has_value());
  CHECK(cold.ioapic.read(kSelect, 4) == 0x29);
  CHECK(cold.read_reg(0) == 0x0900'0000);
  CHECK(cold.entry(16) == entry(16));
  CHECK(cold.entry(4) == entry(4));
  CHECK(cold.ioapic.save()->value.size() == saved->value.size());

  cold.ioapic.line(4).set_level(true);  // was high already: no edge
  CHECK(cold.sink.take().empty());
  cold.ioapic.end_of_interrupt(0x71);  // the line survived
  CHECK(cold.sink.take() == std::vector<MsiMessage>{{0xfee2'1000, 0xc071}});
}

TEST_CASE_FIXTURE(Machine, "an asserted level that no LAPIC has is sent at restore") {
  state::Ioapic message;
  for (unsigned pin = 0; pin < Ioapic::kPins; ++pin) message.add_pins()->set_entry(kMasked);
  message.mutable_pins(17)->set_entry(0x81 | kLevel);
  message.mutable_pins(17)->set_asserted(true);
  REQUIRE(ioapic.restore(pack_state(message)));
  CHECK(sink.take() == std::vector<MsiMessage>{{0xfee0'0000, 0xc081}});
  CHECK((entry(17) & kRemoteIrr) != 0);
}

TEST_CASE_FIXTURE(Machine, "a state that no IOAPIC can have is refused and changes nothing") {
  program(1, 0x31);
  const auto before = ioapic.save();
  state::Ioapic good;
  REQUIRE(good.ParseFromString(before->value));
  const auto refused = [&](auto spoil) {
    state::Ioapic bad = good;
    spoil(bad);
    const Status status = ioapic.restore(pack_state(bad));
    REQUIRE_FALSE(status);
    CHECK(status.error().code == ErrorCode::BadRequest);
    CHECK(ioapic.save()->value == before->value);
  };
  refused([](state::Ioapic& m) { m.set_select(0x100); });
  refused([](state::Ioapic& m) { m.set_id(16); });
  refused([](state::Ioapic& m) { m.mutable_pins()->RemoveLast(); });
  refused([](state::Ioapic& m) { m.add_pins(); });
  refused([](state::Ioapic& m) { m.mutable_pins(0)->set_entry(1ULL << 12); });
  refused([](state::Ioapic& m) { m.mutable_pins(0)->set_entry(1ULL << 40); });
  refused([](state::Ioapic& m) { m.mutable_pins(0)->set_entry(0x31 | kRemoteIrr); });  // edge in service
  CHECK(routes.batches == 0);
}

TEST_CASE_FIXTURE(Machine,
                  "reset masks all pins and takes their routes, the lines stay as devices drive them") {
  program(16, 0x71 | kLevel);
  ioapic.line(16).set_level(true);
  ioapic.reset();
  CHECK(entry(16) == kMasked);
  CHECK_FALSE(routes.routes[16].has_value());
  sink.take();
  program(16, 0x72 | kLevel);
  CHECK(sink.take().size() == 1);
}

TEST_CASE_FIXTURE(Machine, "counters tell of interrupts and EOIs") {
  program(4, 0x31);
  ioapic.line(4).pulse();
  ioapic.line(4).pulse();
  ioapic.end_of_interrupt(0x99);
  CHECK(ioapic.counters() ==
        std::map<std::string, std::int64_t>{{"interrupts", 2}, {"end_of_interrupts", 1}});
}

TEST_CASE_FIXTURE(Machine, "lines, EOIs and register accesses of several threads lose no level") {
  program(16, 0x71 | kLevel);
  std::atomic<bool> stop = false;
  std::thread guest([&] {
    while (!stop) {
      ioapic.end_of_interrupt(0x71);
      ioapic.write(kSelect, 4, 1);
      ioapic.read(kWindow, 4);
    }
  });
  for (int i = 0; i < 20'000; ++i) ioapic.line(16).pulse();
  ioapic.line(16).set_level(true);
  stop = true;
  guest.join();
  CHECK((entry(16) & kRemoteIrr) != 0);
  ioapic.line(16).set_level(false);
  ioapic.end_of_interrupt(0x71);
  CHECK((entry(16) & kRemoteIrr) == 0);
}
