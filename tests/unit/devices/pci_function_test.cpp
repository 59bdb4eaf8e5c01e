#include <array>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "devices/pci/bars.h"
#include "devices/pci/intx.h"
#include "devices/pci/msix.h"
#include "tests/unit/support/fake_interrupt.h"

namespace vmmd::devices {
namespace {

constexpr ConfigSpace::Identity kIdentity{.vendor_id = 0x1122, .device_id = 0x3344};

struct Interrupts {
  ConfigSpace space{kIdentity};
  testing::FakeMsiSink sink;
  Msix msix{70, sink};
  unsigned capability = 0;

  Interrupts() {
    CapabilityChain chain(space);
    capability = msix.add_capability(chain, space, {.bar = 2, .table = 0x4000, .pending = 0x5000});
    space.write(kPciCommand, 2, kPciCommandBusMaster);
    control(0x8000);
    for (unsigned vector = 0; vector < 70; ++vector) program(msix, vector);
  }
  void control(std::uint32_t value) {
    space.write(capability + 2, 2, value);
    msix.update(space);
  }
  static MsiMessage message(unsigned vector) { return {0x1'fee0'1000ULL + 4ULL * vector, 0x4100 + vector}; }
  static void program(Msix& msix, unsigned vector) {
    msix.write_table(16ULL * vector, 8, message(vector).address);
    msix.write_table(16ULL * vector + 8, 8, message(vector).data);
  }
};

struct Registers final : BusDevice {
  std::uint64_t read(std::uint64_t offset, unsigned) override { return 0x5a00 + offset; }
  void write(std::uint64_t, unsigned, std::uint64_t) override {}
};

struct BarFixture {
  using Move = std::pair<unsigned, std::optional<std::uint64_t>>;
  ConfigSpace space{kIdentity};
  Bus bus{"MMIO"};
  Registers registers;
  std::vector<Move> moves;
  Bars bars{"disk:root",
            space,
            bus,
            {{0xc000'0000, 0x2800'0000}, {0x10'0000'0000, 0x10'0000}},
            [this](unsigned index, std::optional<std::uint64_t> at) { moves.emplace_back(index, at); }};

  BarFixture() { bars.add(0, 0x8000, registers); }
  void write(unsigned offset, unsigned width, std::uint32_t value) {
    space.write(offset, width, value);
    bars.update();
  }
  void place(std::uint64_t address) {
    write(kPciBar0, 4, static_cast<std::uint32_t>(address));
    write(kPciBar0 + 4, 4, static_cast<std::uint32_t>(address >> 32));
  }
};

}  // namespace

TEST_CASE("capabilities are chained in order, each on a double word") {
  ConfigSpace space(kIdentity);
  CapabilityChain chain(space);
  CHECK((space.read(kPciStatus, 2) & 0x10) == 0);
  CHECK(chain.add(0x09, std::array<std::uint8_t, 3>{0x12, 0x34, 0x56}) == 0x40);
  CHECK(chain.add(0x11, std::array<std::uint8_t, 10>{0x78}) == 0x48);
  CHECK((space.read(kPciStatus, 2) & 0x10) != 0);
  CHECK(space.read(kPciCapabilities, 1) == 0x40);
  CHECK(space.read(0x40, 4) == 0x3412'4809);
  CHECK(space.read(0x44, 1) == 0x56);
  CHECK(space.read(0x48, 4) == 0x0078'0011);
  space.write(0x48, 4, 0xffff'ffff);
  CHECK(space.read(0x48, 4) == 0x0078'0011);
}

TEST_CASE_FIXTURE(Interrupts,
                  "the MSI-X capability tells size and places, and only its two bits are writable") {
  space.write(capability, 4, 0xffff'ffff);
  CHECK(space.read(capability, 4) == 0xc045'0011);
  CHECK(space.read(capability + 4, 4) == 0x4002);
  CHECK(space.read(capability + 8, 4) == 0x5002);
}

TEST_CASE_FIXTURE(Interrupts, "an unmasked vector sends the message of its entry") {
  msix.signal(69);
  msix.signal(3);
  msix.signal(70);
  CHECK(sink.take() == std::vector<MsiMessage>{message(69), message(3)});
  CHECK(msix.sent() == 2);
}

TEST_CASE_FIXTURE(Interrupts, "a masked vector stays pending and is sent once when unmasked") {
  msix.write_table(16 * 69 + 12, 4, 1);
  msix.signal(69);
  msix.signal(69);
  CHECK(sink.take().empty());
  CHECK(msix.read_pending(8, 8) == 1ULL << 5);
  CHECK(msix.read_pending(8, 1) == 1U << 5);
  CHECK(msix.read_pending(0, 8) == 0);
  msix.write_table(16 * 69 + 12, 4, 0);
  CHECK(sink.take() == std::vector<MsiMessage>{message(69)});
  CHECK(msix.read_pending(8, 8) == 0);
}

TEST_CASE_FIXTURE(Interrupts, "the function mask holds all vectors back") {
  control(0xc000);
  msix.signal(2);
  msix.signal(5);
  CHECK(msix.read_pending(0, 4) == 0x24);
  CHECK(sink.take().empty());
  control(0x8000);
  CHECK(sink.take() == std::vector<MsiMessage>{message(2), message(5)});
}

TEST_CASE_FIXTURE(Interrupts, "a function that is not bus master keeps its messages pending") {
  space.write(kPciCommand, 2, 0);
  msix.update(space);
  msix.signal(7);
  CHECK(sink.take().empty());
  space.write(kPciCommand, 2, kPciCommandBusMaster);
  msix.update(space);
  CHECK(sink.take() == std::vector<MsiMessage>{message(7)});
}

TEST_CASE_FIXTURE(Interrupts, "with MSI-X off nothing is sent, and what was pending is forgotten") {
  control(0xc000);
  msix.signal(2);
  control(0x4000);
  CHECK_FALSE(msix.enabled());
  CHECK(msix.read_pending(0, 8) == 0);
  msix.signal(3);
  control(0x8000);
  CHECK(sink.take().empty());
}

TEST_CASE_FIXTURE(Interrupts, "table entries read back in every width, without reserved bits") {
  msix.write_table(0x20, 4, 0xfee1'2347);
  msix.write_table(0x24, 4, 0x89ab'cdef);
  msix.write_table(0x28, 8, 0xffff'fffe'1357'9bdf);
  CHECK(msix.read_table(0x20, 8) == 0x89ab'cdef'fee1'2344);
  CHECK(msix.read_table(0x28, 8) == 0x1357'9bdf);
  CHECK(msix.read_table(0x26, 2) == 0x89ab);
  CHECK(msix.read_table(0x21, 1) == 0x23);
}

TEST_CASE_FIXTURE(Interrupts, "narrow writes and accesses beyond the table do nothing") {
  const auto before = msix.read_table(16 * 69, 8);
  msix.write_table(16 * 69, 1, 0);
  msix.write_table(16 * 69 + 2, 2, 0);
  msix.write_table(16 * 70, 8, ~0ULL);
  CHECK(msix.read_table(16 * 69, 8) == before);
  CHECK(msix.read_table(16 * 70, 8) == 0);
  CHECK(msix.read_pending(16, 8) == 0);
}

TEST_CASE_FIXTURE(Interrupts, "a cold MSI-X takes over entries, masks and what is pending") {
  msix.write_table(16 * 4 + 12, 4, 1);
  msix.signal(4);
  state::Msix saved;
  msix.save(saved);
  ConfigSpace cold_space{kIdentity};
  CapabilityChain chain(cold_space);
  Msix cold(70, sink);
  cold.add_capability(chain, cold_space, {.bar = 2, .table = 0x4000, .pending = 0x5000});
  REQUIRE(cold.check(saved, "disk:root/pci"));
  cold_space.restore(space.save());
  cold.restore(saved);
  cold.update(cold_space);
  CHECK(sink.take().empty());
  for (unsigned offset = 0; offset < 70 * 16; offset += 8) {
    CHECK(cold.read_table(offset, 8) == msix.read_table(offset, 8));
  }
  CHECK(cold.read_pending(0, 8) == 0x10);
  cold.write_table(16 * 4 + 12, 4, 0);
  CHECK(sink.take() == std::vector<MsiMessage>{message(4)});
}

TEST_CASE_FIXTURE(Interrupts, "a table of another size or with an impossible address is refused") {
  state::Msix saved;
  msix.save(saved);
  state::Msix bad = saved;
  bad.mutable_vectors(69)->set_address(0xfee0'0002);
  CHECK(msix.check(bad, "disk:root/pci").error().code == ErrorCode::BadRequest);
  bad = saved;
  bad.mutable_vectors()->RemoveLast();
  CHECK(msix.check(bad, "disk:root/pci").error().code == ErrorCode::BadRequest);
}

TEST_CASE_FIXTURE(Interrupts, "reset masks every vector and forgets its message") {
  msix.reset();
  CHECK_FALSE(msix.enabled());
  CHECK(msix.read_table(16 * 5, 8) == 0);
  CHECK(msix.read_table(16 * 5 + 8, 8) == 1ULL << 32);
}

TEST_CASE_FIXTURE(BarFixture, "writing all ones to a BAR tells its size, whatever decoding does") {
  for (const std::uint32_t command : {0U, 2U}) {
    write(kPciCommand, 2, command);
    place(~0ULL);
    CHECK(space.read(kPciBar0, 4) == 0xffff'8004);
    CHECK(space.read(kPciBar0 + 4, 4) == 0xffff'ffff);
    CHECK(bus.regions().empty());
  }
}

TEST_CASE_FIXTURE(BarFixture, "a BAR is on the bus while memory decoding is on") {
  place(0x10'0000'8000);
  CHECK(bus.regions().empty());
  write(kPciCommand, 2, kPciCommandMemory);
  CHECK(bars.address(0) == 0x10'0000'8000);
  CHECK(bus.read(0x10'0000'8000 + 0x123, 2) == 0x5b23);
  write(kPciCommand, 2, 0);
  CHECK(bus.read(0x10'0000'8000 + 0x123, 2) == 0xffff);
  CHECK(moves == std::vector<Move>{{0, 0x10'0000'8000}, {0, std::nullopt}});
}

TEST_CASE_FIXTURE(BarFixture, "a BAR moves when the guest writes it, between the windows too") {
  write(kPciCommand, 2, kPciCommandMemory);
  place(0xc010'0000);
  CHECK(bars.address(0) == 0xc010'0000);
  place(0x10'000f'8000);
  CHECK(bars.address(0) == 0x10'000f'8000);
  CHECK(bus.regions().size() == 1);
}

TEST_CASE_FIXTURE(BarFixture, "a BAR outside the windows, or at zero, is nowhere") {
  write(kPciCommand, 2, kPciCommandMemory);
  for (const std::uint64_t address : {0ULL, 0x8000ULL, 0xbfff'8000ULL, 0xe800'0000ULL, 0x10'0010'0000ULL,
                                      0xf'ffff'8000ULL, 0xffff'ffff'ffff'8000ULL}) {
    place(address);
    CHECK(bars.address(0) == std::nullopt);
    CHECK(bus.regions().empty());
  }
}

TEST_CASE_FIXTURE(BarFixture, "a BAR that conflicts is nowhere, and tried again with the next change") {
  REQUIRE(bus.map({"other", 0xc010'4000, 0x100, kWidthAny, &registers}));
  write(kPciCommand, 2, kPciCommandMemory);
  place(0xc010'0000);
  CHECK(bars.address(0) == std::nullopt);
  CHECK(bus.regions().size() == 1);
  REQUIRE(bus.unmap(0xc010'4000));
  write(kPciInterruptLine, 1, 5);
  CHECK(bars.address(0) == 0xc010'0000);
}

TEST_CASE_FIXTURE(BarFixture, "a function that goes takes its BARs off the bus") {
  {
    ConfigSpace other{kIdentity};
    Bars gone("net:eth0", other, bus, {{0xc000'0000, 0x10'0000}});
    gone.add(4, 0x1000, registers, 0xc000'3000);
    other.write(kPciCommand, 2, kPciCommandMemory);
    gone.update();
    CHECK(gone.address(4) == 0xc000'3000);
    CHECK(bus.regions().size() == 1);
  }
  CHECK(bus.regions().empty());
}

TEST_CASE("a shared line is high while any function pulls it") {
  testing::FakeInterruptLine out;
  SharedInterruptLine line(out);
  Intx first(line);
  first.set_pending(true);
  {
    Intx second(line);
    second.set_pending(true);
    first.set_pending(false);
    CHECK(out.level());
  }
  CHECK_FALSE(out.level());
  CHECK(out.calls() == 2);
}

TEST_CASE("INTx disable and MSI-X keep an interrupt off the line, not out of the status register") {
  testing::FakeInterruptLine out;
  SharedInterruptLine line(out);
  ConfigSpace space(kIdentity);
  Intx intx(line);
  intx.set_pending(true);
  CHECK(out.level());
  space.write(kPciCommand, 2, kPciCommandIntxDisable);
  intx.update(space, false);
  CHECK_FALSE(out.level());
  CHECK(intx.with_status(kPciStatus, 2, 0x10) == 0x18);
  CHECK(intx.with_status(kPciCommand, 4, 0x10'0400) == 0x18'0400);
  CHECK(intx.with_status(kPciCommand, 2, 0x0400) == 0x0400);
  CHECK(intx.with_status(kPciStatus + 1, 1, 0) == 0);
  space.write(kPciCommand, 2, 0);
  intx.update(space, true);
  CHECK_FALSE(out.level());
  intx.update(space, false);
  CHECK(out.level());
  intx.set_pending(false);
  CHECK(intx.with_status(kPciStatus, 2, 0x10) == 0x10);
  CHECK_FALSE(out.level());
}

}  // namespace vmmd::devices
