#include "devices/chipset/i8042.h"

#include <doctest/doctest.h>

#include "proto/state.pb.h"
#include "tests/unit/support/fake_power.h"

using namespace vmmd;
using namespace vmmd::devices;
using vmmd::testing::FakePowerSink;

namespace {
struct Machine {
  FakePowerSink power;
  I8042 controller{power};
  std::uint64_t status() { return controller.command().read(0, 1); }
  void command(std::uint8_t c) { controller.command().write(0, 1, c); }
  void data(std::uint8_t d) { controller.data().write(0, 1, d); }
  std::uint64_t data() { return controller.data().read(0, 1); }
};
}  // namespace

TEST_CASE_FIXTURE(Machine, "power-on: nothing to read") {
  CHECK(status() == 0x10);
}

TEST_CASE_FIXTURE(Machine, "command 0xFE resets the machine, once") {
  command(0xfe);
  CHECK(power.resets == 1);
  CHECK(power.shutdowns == 0);
}

TEST_CASE_FIXTURE(Machine, "a pulse that leaves the reset line alone does nothing") {
  for (unsigned c = 0xf1; c <= 0xff; c += 2) command(static_cast<std::uint8_t>(c));
  CHECK(power.resets == 0);
}

TEST_CASE_FIXTURE(Machine, "the self test answers 0x55 and sets the system flag") {
  command(0xaa);
  CHECK(status() == 0x1d);
  CHECK(data() == 0x55);
  CHECK(status() == 0x1c);
}

TEST_CASE_FIXTURE(Machine, "the command byte is written, read and changed by enable commands") {
  command(0x60);
  data(0x43);
  command(0x20);
  CHECK(data() == 0x43);
  command(0xad);
  command(0xa7);
  command(0x20);
  CHECK(data() == 0x73);
  command(0xae);
  command(0xa8);
  command(0x20);
  CHECK(data() == 0x43);
}

TEST_CASE_FIXTURE(Machine, "the probe of a mouse is answered with no") {
  command(0xd3);
  data(0x5a);
  CHECK((status() & 0x21) == 0x01);  // a byte is there, and it is not the mouse's
  CHECK(data() == 0x5a);
  command(0xa9);
  CHECK(data() == 0x01);
}

TEST_CASE_FIXTURE(Machine, "bytes for the keyboard are swallowed") {
  data(0xf2);
  CHECK(status() == 0x10);
  command(0xd4);
  data(0xf2);
  CHECK((status() & 1) == 0);
}

TEST_CASE_FIXTURE(Machine, "the output port's bit 0 resets when it goes low") {
  command(0xd1);
  data(0xdf);
  CHECK(power.resets == 0);
  command(0xd0);
  CHECK(data() == 0xdf);
  command(0xd1);
  data(0xfe);
  CHECK(power.resets == 1);
  command(0xd0);
  CHECK(data() == 0xff);
}

TEST_CASE_FIXTURE(Machine, "a second command cancels one that waits for data") {
  command(0x60);
  command(0xab);
  data(0x77);
  CHECK(data() == 0x00);
  command(0x20);
  CHECK(data() == 0x30);
}

TEST_CASE_FIXTURE(Machine, "other offsets and widths read all ones and write nothing") {
  const auto before = controller.save();
  for (std::uint64_t offset = 0; offset < 4; ++offset) {
    for (const unsigned width : {1U, 2U, 4U, 8U}) {
      if (offset == 0 && width == 1) continue;
      for (BusDevice* port : {&controller.data(), &controller.command()}) {
        port->write(offset, width, 0xfe);
        CHECK(port->read(offset, width) == all_ones(width));
      }
    }
  }
  CHECK(power.resets == 0);
  CHECK(controller.save()->value == before->value);
}

TEST_CASE_FIXTURE(Machine, "a cold controller takes over every field") {
  command(0x60);
  data(0x47);
  command(0xd1);
  data(0x93);
  command(0xd2);
  data(0x6e);
  command(0xd1);
  const auto saved = controller.save();
  Machine cold;
  REQUIRE(cold.controller.restore(*saved));
  CHECK(cold.controller.save()->value == saved->value);
  CHECK(cold.status() == 0x1d);
  CHECK(cold.data() == 0x6e);
  cold.data(0xa5);  // completes the command that was saved half-way
  cold.command(0xd0);
  CHECK(cold.data() == 0xa5);
  cold.command(0x20);
  CHECK(cold.data() == 0x47);
}

TEST_CASE_FIXTURE(Machine, "impossible states are refused and change nothing") {
  command(0xaa);
  const auto before = controller.save();
  const auto refused = [&](auto spoil) {
    state::I8042 bad;
    REQUIRE(bad.ParseFromString(before->value));
    spoil(bad);
    CHECK(controller.restore(pack_state(bad)).error().code == ErrorCode::BadRequest);
    CHECK(controller.save()->value == before->value);
  };
  refused([](state::I8042& m) { m.set_command_byte(0x100); });
  refused([](state::I8042& m) { m.set_output_port(0x100); });
  refused([](state::I8042& m) { m.set_output(0x1ff); });
  refused([](state::I8042& m) { m.set_pending_command(0x160); });
  refused([](state::I8042& m) { m.set_pending_command(0xfe); });
}

TEST_CASE_FIXTURE(Machine, "reset is the power-on state") {
  const auto fresh = controller.save();
  command(0xaa);
  command(0xd1);
  controller.reset();
  CHECK(controller.save()->value == fresh->value);
}
