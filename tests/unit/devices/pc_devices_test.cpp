// Small devices of a PC: PM1 registers, DMA page registers, and the i8042's keyboard.
#include <vector>

#include <doctest/doctest.h>

#include "devices/chipset/acpi_pm1.h"
#include "devices/chipset/dma_page.h"
#include "devices/chipset/i8042.h"
#include "proto/state.pb.h"
#include "tests/unit/support/fake_interrupt.h"
#include "tests/unit/support/fake_power.h"

using namespace vmmd;
using namespace vmmd::devices;
using vmmd::testing::FakeInterruptLine;
using vmmd::testing::FakePowerSink;

namespace {

struct Pm1 {
  FakeInterruptLine sci;
  FakePowerSink power;
  AcpiPm1 pm1{sci, power, 5};
};

struct Keyboard {
  FakePowerSink power;
  FakeInterruptLine irq;
  I8042 controller{power, &irq};
  void command(std::uint8_t c) { controller.command().write(0, 1, c); }
  void send(std::uint8_t d) { controller.data().write(0, 1, d); }
  std::uint64_t status() { return controller.command().read(0, 1); }
  std::uint64_t read() { return controller.data().read(0, 1); }
  /// What the keyboard says until it is silent.
  std::vector<unsigned> answer() {
    std::vector<unsigned> bytes;
    while ((status() & 1) != 0) bytes.push_back(static_cast<unsigned>(read()));
    return bytes;
  }
  /// Interrupts on, keyboard on; `translate` to scan code set 1.
  void enable(bool translate = false) {
    command(0x60);
    send(translate ? 0x41 : 0x01);
  }
};

using Bytes = std::vector<unsigned>;

}  // namespace

TEST_CASE_FIXTURE(Pm1, "the power button interrupts once enabled, until its status is cleared") {
  pm1.power_button();
  CHECK_FALSE(sci.level());
  CHECK(pm1.read(0, 2) == 0x0100);
  pm1.write(2, 2, 0x0100);
  CHECK(sci.level());
  pm1.write(0, 2, 0x0021);  // others' bits
  CHECK(sci.level());
  pm1.write(1, 1, 0x01);
  CHECK_FALSE(sci.level());
  CHECK(pm1.read(0, 2) == 0);
}

TEST_CASE_FIXTURE(Pm1, "S5 powers off, other sleep types and no SLP_EN do nothing") {
  CHECK(pm1.read(4, 2) == 0x0001);  // SCI_EN
  pm1.write(4, 2, 5U << 10);
  pm1.write(4, 2, 3U << 10 | 1U << 13);
  CHECK(power.shutdowns == 0);
  pm1.write(4, 2, 5U << 10 | 1U << 13);
  CHECK(power.shutdowns == 1);
  CHECK(pm1.read(4, 2) == (5U << 10 | 1U));
  CHECK(power.resets == 0);
}

TEST_CASE_FIXTURE(Pm1, "PM1 is read and written in bytes and words, nothing else") {
  pm1.write(2, 1, 0x21);
  pm1.write(3, 1, 0x05);
  CHECK(pm1.read(2, 2) == 0x0521);
  CHECK(pm1.read(3, 1) == 0x05);
  CHECK(pm1.read(5, 2) == 0xffff);
  CHECK(pm1.read(6, 1) == 0xff);
  pm1.write(0, 4, 0xffff'ffff);
  CHECK(pm1.read(2, 2) == 0x0521);
}

TEST_CASE_FIXTURE(Pm1, "a cold PM1 takes over every field and refuses unknown bits") {
  pm1.power_button();
  pm1.write(2, 2, 0x0500);
  pm1.write(4, 2, 3U << 10 | 2);
  const auto saved = pm1.save();
  Pm1 cold;
  REQUIRE(cold.pm1.restore(*saved));
  CHECK(cold.pm1.save()->value == saved->value);
  CHECK(cold.sci.level());
  const auto refused = [&](auto spoil) {
    state::AcpiPm1 bad;
    REQUIRE(bad.ParseFromString(saved->value));
    spoil(bad);
    CHECK(cold.pm1.restore(pack_state(bad)).error().code == ErrorCode::BadRequest);
    CHECK(cold.pm1.save()->value == saved->value);
  };
  refused([](state::AcpiPm1& m) { m.set_status(1); });
  refused([](state::AcpiPm1& m) { m.set_enable(0x10000); });
  refused([](state::AcpiPm1& m) { m.set_control(1U << 13); });
  cold.pm1.reset();
  CHECK_FALSE(cold.sci.level());
  CHECK(cold.pm1.read(2, 2) == 0);
}

TEST_CASE("DMA page registers hold what was written, through a snapshot too") {
  DmaPage pages;
  for (unsigned i = 0; i < DmaPage::kSize; ++i) pages.write(i, 1, 0x31 + i);
  pages.write(0, 2, 0xffff);
  pages.write(DmaPage::kSize, 1, 0xff);
  DmaPage cold;
  REQUIRE(cold.restore(*pages.save()));
  for (unsigned i = 0; i < DmaPage::kSize; ++i) CHECK(cold.read(i, 1) == 0x31 + i);
  CHECK(cold.read(DmaPage::kSize, 1) == 0xff);
  CHECK(cold.read(0, 4) == 0xffff'ffff);
  state::DmaPage bad;
  bad.set_pages("short");
  CHECK(cold.restore(pack_state(bad)).error().code == ErrorCode::BadRequest);
  CHECK(cold.read(3, 1) == 0x34);
  cold.reset();
  CHECK(cold.read(3, 1) == 0);
}

TEST_CASE_FIXTURE(Keyboard, "a driver's probe finds a keyboard") {
  enable();
  send(0xff);
  CHECK(answer() == Bytes{0xfa, 0xaa});
  send(0xf2);
  CHECK(answer() == Bytes{0xfa, 0xab, 0x83});
  send(0xee);
  CHECK(answer() == Bytes{0xee});
  send(0xed);
  CHECK(answer() == Bytes{0xfa});
  send(0x07);
  CHECK(answer() == Bytes{0xfa});
  send(0xf0);
  CHECK(answer() == Bytes{0xfa});
  send(0x00);
  CHECK(answer() == Bytes{0xfa, 0x02});
  send(0x13);
  CHECK(answer() == Bytes{0xfe});
  send(0xfe);
  CHECK(answer() == Bytes{0xfe});
}

TEST_CASE_FIXTURE(Keyboard, "every byte is an edge of its own, if the command byte asks for interrupts") {
  command(0x60);
  send(0x00);
  send(0xf2);
  CHECK_FALSE(irq.level());
  answer();
  enable();
  const unsigned before = irq.rising_edges();
  send(0xf2);
  answer();
  CHECK(irq.rising_edges() == before + 3);
  CHECK_FALSE(irq.level());
}

TEST_CASE_FIXTURE(Keyboard, "keys arrive as set 2, or translated to set 1") {
  enable();
  CHECK(controller.press("\x1c"));
  CHECK(controller.press("\xf0\x1c"));
  CHECK(answer() == Bytes{0x1c, 0xf0, 0x1c});
  enable(true);
  CHECK(controller.press("\x1c"));
  CHECK(controller.press("\xf0\x1c"));
  CHECK(controller.press("\xe0\xf0\x75"));
  CHECK(answer() == Bytes{0x1e, 0x9e, 0xe0, 0xc8});
}

TEST_CASE_FIXTURE(Keyboard,
                  "keys wait while the keyboard is disabled, and are refused when there is no room") {
  enable();
  command(0xad);
  for (int i = 0; i < 16; ++i) CHECK(controller.press("\x1c"));
  CHECK_FALSE(controller.press("\x1c"));
  CHECK((status() & 1) == 0);
  command(0xae);
  CHECK(answer().size() == 16);
  send(0xf5);
  answer();
  CHECK_FALSE(controller.press("\x1c"));
  send(0xf4);
  answer();
  CHECK(controller.press("\x1c"));
}

TEST_CASE("a controller without a keyboard takes no keys and saves none") {
  FakePowerSink power;
  I8042 controller(power);
  CHECK_FALSE(controller.press("\x1c"));
  state::I8042 message;
  REQUIRE(message.ParseFromString(controller.save()->value));
  CHECK_FALSE(message.has_keyboard());
}

TEST_CASE_FIXTURE(Keyboard, "a cold keyboard takes over every field, a byte on its way included") {
  state::I8042 message;
  message.set_command_byte(0x41);
  message.set_output_port(0xc7);
  message.set_output(0x5b);
  message.set_output_full(true);
  message.set_last_was_command(true);
  message.set_pending_command(0x60);
  message.set_break_next(true);
  state::Ps2Keyboard& keyboard = *message.mutable_keyboard();
  keyboard.set_output("\x1c\x32");
  keyboard.set_pending_command(0xf3);
  keyboard.set_last(0xab);
  keyboard.set_scanning(true);
  keyboard.set_scan_set(3);
  keyboard.set_leds(5);
  keyboard.set_typematic(0x7e);
  const UnitState state = pack_state(message);
  REQUIRE(controller.restore(state));
  CHECK(controller.save()->value == state.value);
  CHECK(irq.level());
  CHECK(answer() == Bytes{0x5b, 0x9e, 0x30});
}

TEST_CASE_FIXTURE(Keyboard, "an impossible keyboard is refused and changes nothing") {
  const auto before = controller.save();
  const auto refused = [&](auto spoil) {
    state::I8042 bad;
    REQUIRE(bad.ParseFromString(before->value));
    spoil(*bad.mutable_keyboard());
    CHECK(controller.restore(pack_state(bad)).error().code == ErrorCode::BadRequest);
    CHECK(controller.save()->value == before->value);
  };
  refused([](state::Ps2Keyboard& k) { k.set_output(std::string(17, 'x')); });
  refused([](state::Ps2Keyboard& k) { k.set_pending_command(0xf4); });
  refused([](state::Ps2Keyboard& k) { k.set_last(0x100); });
  refused([](state::Ps2Keyboard& k) { k.set_scan_set(0); });
  refused([](state::Ps2Keyboard& k) { k.set_scan_set(4); });
  refused([](state::Ps2Keyboard& k) { k.set_leds(8); });
  refused([](state::Ps2Keyboard& k) { k.set_typematic(0x80); });
  FakePowerSink none;
  I8042 without(none);
  CHECK(without.restore(*before).error().code == ErrorCode::BadRequest);
}
