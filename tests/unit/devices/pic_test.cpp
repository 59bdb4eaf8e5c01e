#include "devices/chipset/pic.h"

#include <doctest/doctest.h>

#include "proto/state.pb.h"
#include "tests/unit/support/fake_interrupt.h"

using namespace vmmd;
using namespace vmmd::devices;
using vmmd::testing::FakeInterruptLine;

namespace {

constexpr std::uint8_t kNonSpecificEoi = 0x20;

struct Machine {
  FakeInterruptLine intr;
  Pic pic{intr};

  static void set_up(BusDevice& chip, std::uint8_t vector, std::uint8_t cascade, std::uint8_t icw4) {
    chip.write(0, 1, 0x11);
    chip.write(1, 1, vector);
    chip.write(1, 1, cascade);
    chip.write(1, 1, icw4);
  }
  /// As an operating system does; everything unmasked.
  void set_up(std::uint8_t master_icw4 = 1, std::uint8_t slave_icw4 = 1) {
    set_up(pic.master(), 0x20, 4, master_icw4);
    set_up(pic.slave(), 0x28, 2, slave_icw4);
  }
  void raise(unsigned irq) { pic.line(irq).set_level(true); }
  void lower(unsigned irq) { pic.line(irq).set_level(false); }
  static std::uint64_t requests(BusDevice& chip) {
    chip.write(0, 1, 0x0a);
    return chip.read(0, 1);
  }
  static std::uint64_t in_service(BusDevice& chip) {
    chip.write(0, 1, 0x0b);
    return chip.read(0, 1);
  }
  void eoi(unsigned irq) {
    if (irq >= 8) pic.slave().write(0, 1, kNonSpecificEoi);
    pic.master().write(0, 1, kNonSpecificEoi);
  }
};

}  // namespace

TEST_CASE_FIXTURE(Machine, "at power-on everything is masked") {
  for (unsigned irq = 0; irq < Pic::kInputs; ++irq) raise(irq);
  CHECK_FALSE(intr.level());
  CHECK(pic.master().read(1, 1) == 0xff);
  CHECK(pic.slave().read(1, 1) == 0xff);
}

TEST_CASE_FIXTURE(Machine, "every input has its vector, through the cascade too") {
  set_up();
  for (unsigned irq = 0; irq < Pic::kInputs; ++irq) {
    if (irq == Pic::kCascade) continue;
    CAPTURE(irq);
    pic.line(irq).pulse();
    CHECK(intr.level());
    CHECK(pic.acknowledge() == 0x20 + irq);
    CHECK_FALSE(intr.level());
    eoi(irq);
    CHECK(in_service(pic.master()) == 0);
    CHECK(in_service(pic.slave()) == 0);
  }
}

TEST_CASE_FIXTURE(Machine, "nothing interrupts before the initialization is complete") {
  pic.master().write(0, 1, 0x11);
  raise(4);
  CHECK_FALSE(intr.level());
  pic.master().write(1, 1, 0x40);
  pic.master().write(1, 1, 4);
  CHECK_FALSE(intr.level());
  pic.master().write(1, 1, 1);
  CHECK(intr.level());
  CHECK(pic.acknowledge() == 0x44);
}

TEST_CASE_FIXTURE(Machine, "ICW1 without ICW4 and in single mode ends earlier") {
  pic.master().write(0, 1, 0x12);
  pic.master().write(1, 1, 0x50);
  pic.master().write(1, 1, 0xfd);  // a mask already
  CHECK(pic.master().read(1, 1) == 0xfd);
  raise(1);
  CHECK(pic.acknowledge() == 0x51);
}

TEST_CASE_FIXTURE(Machine, "initialization forgets edges and masks nothing") {
  set_up();
  pic.line(3).pulse();
  raise(1);
  pic.acknowledge();
  set_up();
  CHECK(requests(pic.master()) == 0);
  CHECK(in_service(pic.master()) == 0);
  CHECK(pic.master().read(1, 1) == 0);
  CHECK_FALSE(intr.level());
}

TEST_CASE_FIXTURE(Machine, "a higher interrupt comes between, an equal or lower one waits") {
  set_up();
  raise(4);
  CHECK(pic.acknowledge() == 0x24);
  raise(6);
  CHECK_FALSE(intr.level());
  raise(1);
  CHECK(intr.level());
  CHECK(pic.acknowledge() == 0x21);
  CHECK(in_service(pic.master()) == 0x12);
  pic.master().write(0, 1, kNonSpecificEoi);
  CHECK(in_service(pic.master()) == 0x10);
  CHECK_FALSE(intr.level());
  pic.master().write(0, 1, kNonSpecificEoi);
  CHECK(pic.acknowledge() == 0x26);
}

TEST_CASE_FIXTURE(Machine, "a mask holds a request back and keeps it") {
  set_up();
  pic.master().write(1, 1, 0x10);
  pic.line(4).pulse();
  CHECK_FALSE(intr.level());
  CHECK(requests(pic.master()) == 0x10);
  pic.master().write(1, 1, 0);
  CHECK(pic.acknowledge() == 0x24);
}

TEST_CASE_FIXTURE(Machine, "an edge is one interrupt, however long the line stays high") {
  set_up();
  raise(5);
  CHECK(pic.acknowledge() == 0x25);
  eoi(5);
  CHECK_FALSE(intr.level());
  raise(5);
  CHECK_FALSE(intr.level());
  lower(5);
  raise(5);
  CHECK(intr.level());
}

TEST_CASE_FIXTURE(Machine, "a level asks until it is low") {
  set_up();
  pic.elcr().write(1, 1, 0x02);
  raise(9);
  CHECK(pic.acknowledge() == 0x29);
  CHECK_FALSE(intr.level());
  eoi(9);
  CHECK(intr.level());
  CHECK(pic.acknowledge() == 0x29);
  lower(9);
  eoi(9);
  CHECK_FALSE(intr.level());
}

TEST_CASE_FIXTURE(Machine, "the timer, keyboard, cascade, RTC and FPU are edges whatever ELCR is told") {
  pic.elcr().write(0, 1, 0xff);
  pic.elcr().write(1, 1, 0xff);
  CHECK(pic.elcr().read(0, 1) == 0xf8);
  CHECK(pic.elcr().read(1, 1) == 0xde);
}

TEST_CASE_FIXTURE(
    Machine, "a level that goes away before it is acknowledged is spurious: 7, or 15 behind the cascade") {
  set_up();
  pic.elcr().write(0, 1, 0x20);
  pic.elcr().write(1, 1, 0x02);
  raise(5);
  lower(5);
  CHECK_FALSE(intr.level());
  CHECK(pic.acknowledge() == 0x27);
  CHECK(in_service(pic.master()) == 0);
  raise(9);
  lower(9);
  CHECK(pic.acknowledge() == 0x2f);
  CHECK(in_service(pic.slave()) == 0);
  CHECK(in_service(pic.master()) == 0x04);  // the guest ends the cascade's, as on hardware
  CHECK(pic.counters().at("spurious") == 2);
}

TEST_CASE_FIXTURE(Machine, "automatic EOI leaves nothing in service") {
  set_up(3, 3);
  raise(0);
  CHECK(pic.acknowledge() == 0x20);
  CHECK(in_service(pic.master()) == 0);
  pic.line(0).pulse();
  CHECK_FALSE(intr.level());  // high all the time until the pulse lowered it
  pic.line(0).pulse();
  CHECK(intr.level());
}

TEST_CASE_FIXTURE(Machine, "rotation in automatic EOI mode gives every input its turn") {
  set_up(3, 3);
  pic.master().write(0, 1, 0x80);
  pic.line(3).pulse();
  CHECK(pic.acknowledge() == 0x23);
  pic.line(3).pulse();
  pic.line(6).pulse();
  CHECK(pic.acknowledge() == 0x26);
  CHECK(pic.acknowledge() == 0x23);
  pic.master().write(0, 1, 0x00);  // no more rotation
  pic.line(5).pulse();
  CHECK(pic.acknowledge() == 0x25);
  pic.line(3).pulse();
  pic.line(4).pulse();
  CHECK(pic.acknowledge() == 0x24);  // 3 is still the lowest
}

TEST_CASE_FIXTURE(Machine, "rotating and specific EOI and set priority move the lowest input") {
  set_up();
  pic.line(2 + 1).pulse();
  pic.acknowledge();
  pic.master().write(0, 1, 0xa0);  // rotate on non-specific EOI: 3 is the lowest now
  pic.line(3).pulse();
  pic.line(7).pulse();
  CHECK(pic.acknowledge() == 0x27);
  pic.master().write(0, 1, 0x67);  // specific EOI of 7
  CHECK(pic.acknowledge() == 0x23);
  pic.master().write(0, 1, 0xe3);  // rotate on specific EOI of 3
  CHECK(in_service(pic.master()) == 0);
  pic.master().write(0, 1, 0xc5);  // set priority: 5 is the lowest
  pic.line(5).pulse();
  pic.line(6).pulse();
  CHECK(pic.acknowledge() == 0x26);
}

TEST_CASE_FIXTURE(Machine, "special mask mode lets lower interrupts pass a masked one in service") {
  set_up();
  raise(1);
  pic.acknowledge();
  raise(6);
  pic.master().write(1, 1, 0x02);
  CHECK_FALSE(intr.level());
  pic.master().write(0, 1, 0x68);  // set special mask
  CHECK(intr.level());
  CHECK(pic.acknowledge() == 0x26);
  pic.master().write(0, 1, kNonSpecificEoi);
  CHECK(in_service(pic.master()) == 0x02);  // the masked one needs a specific EOI
  pic.master().write(0, 1, 0x61);
  CHECK(in_service(pic.master()) == 0);
  pic.master().write(0, 1, 0x48);
  CHECK_FALSE(intr.level());
}

TEST_CASE_FIXTURE(Machine, "the special fully nested mode lets a higher interrupt of the slave through") {
  set_up(0x11);
  raise(12);
  CHECK(pic.acknowledge() == 0x2c);
  raise(8);
  CHECK(intr.level());
  CHECK(pic.acknowledge() == 0x28);
  CHECK(in_service(pic.slave()) == 0x11);
}

TEST_CASE_FIXTURE(Machine, "two interrupts of the slave come one after the other") {
  set_up();
  raise(8);
  raise(14);
  CHECK(pic.acknowledge() == 0x28);
  eoi(8);
  CHECK(intr.level());
  CHECK(pic.acknowledge() == 0x2e);
}

TEST_CASE_FIXTURE(Machine, "a poll acknowledges without the CPU") {
  set_up();
  raise(6);
  pic.master().write(0, 1, 0x0c);
  CHECK(pic.master().read(0, 1) == 0x86);
  CHECK_FALSE(intr.level());
  CHECK(in_service(pic.master()) == 0x40);
  pic.master().write(0, 1, 0x0c);
  CHECK(pic.master().read(0, 1) == 0);
}

TEST_CASE_FIXTURE(Machine, "other offsets and widths read all ones and write nothing") {
  const auto before = pic.save();
  for (BusDevice* ports : {&pic.master(), &pic.slave(), &pic.elcr()}) {
    for (std::uint64_t offset = 0; offset < 4; ++offset) {
      for (const unsigned width : {1U, 2U, 4U, 8U}) {
        if (offset < 2 && width == 1) continue;
        ports->write(offset, width, 0x1111'1111);
        CHECK(ports->read(offset, width) == all_ones(width));
      }
    }
  }
  CHECK(pic.save()->value == before->value);
}

TEST_CASE_FIXTURE(Machine, "every field survives save, restore and save, and INTR follows") {
  state::Pic message;
  for (unsigned i = 0; i < 2; ++i) {
    state::Pic::Chip& chip = *message.add_chips();
    chip.set_lines(0x5a + i);
    chip.set_requests(0x81);
    chip.set_in_service(0x30 + i);
    chip.set_mask(0x16 + i);
    chip.set_level(0x48);
    chip.set_vector(0x60 + 8 * i);
    chip.set_lowest(6 - i);
    chip.set_next_icw(4);
    chip.set_wants_icw4(true);
    chip.set_single(true);
    chip.set_auto_eoi(true);
    chip.set_fully_nested(true);
    chip.set_rotate_on_auto_eoi(true);
    chip.set_special_mask(true);
    chip.set_read_in_service(true);
    chip.set_poll(true);
  }
  message.mutable_chips(0)->set_lines(0x58);  // the cascade's level is the slave's output
  const UnitState state = pack_state(message);
  REQUIRE(pic.restore(state));
  CHECK(pic.save()->value == state.value);
  CHECK_FALSE(intr.level());

  Machine source;
  source.set_up();
  source.raise(4);
  source.pic.acknowledge();
  source.raise(1);
  Machine cold;
  REQUIRE(cold.pic.restore(*source.pic.save()));
  CHECK(cold.intr.level());
  cold.raise(1);  // already high: no second edge
  CHECK(cold.pic.acknowledge() == 0x21);
  cold.eoi(1);
  CHECK(in_service(cold.pic.master()) == 0x10);
  CHECK_FALSE(cold.intr.level());
}

TEST_CASE_FIXTURE(Machine, "a state that no PIC has is refused and changes nothing") {
  set_up();
  raise(4);
  const auto before = pic.save();
  const auto refused = [&](auto spoil) {
    state::Pic bad;
    REQUIRE(bad.ParseFromString(before->value));
    spoil(bad, *bad.mutable_chips(1));
    CHECK(pic.restore(pack_state(bad)).error().code == ErrorCode::BadRequest);
    CHECK(pic.save()->value == before->value);
  };
  refused([](auto& m, auto&) { m.add_chips(); });
  refused([](auto& m, auto&) { m.mutable_chips()->RemoveLast(); });
  refused([](auto&, auto& chip) { chip.set_lines(0x100); });
  refused([](auto&, auto& chip) { chip.set_requests(0x100); });
  refused([](auto&, auto& chip) { chip.set_in_service(0x100); });
  refused([](auto&, auto& chip) { chip.set_mask(0x100); });
  refused([](auto&, auto& chip) { chip.set_level(0x01); });
  refused([](auto&, auto& chip) { chip.set_vector(0x29); });
  refused([](auto&, auto& chip) { chip.set_lowest(8); });
  refused([](auto&, auto& chip) { chip.set_next_icw(1); });
  refused([](auto&, auto& chip) { chip.set_next_icw(5); });
}

TEST_CASE_FIXTURE(Machine, "reset is the power-on state") {
  const auto fresh = pic.save();
  set_up();
  raise(3);
  pic.reset();
  CHECK(pic.save()->value == fresh->value);
  CHECK_FALSE(intr.level());
}
