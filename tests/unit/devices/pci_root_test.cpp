#include "devices/pci/pci_root.h"

#include <array>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "proto/state.pb.h"

using namespace vmmd;
using namespace vmmd::devices;

namespace {

constexpr std::uint32_t kEnable = 0x8000'0000;

struct Function final : PciDevice {
  explicit Function(std::string n,
                    ConfigSpace::Identity identity = {.vendor_id = 0x1af4, .device_id = 0x1042})
      : name(std::move(n)), space(identity) {}
  [[nodiscard]] std::string_view pci_name() const override { return name; }
  [[nodiscard]] std::uint32_t read_config(unsigned offset, unsigned width) override {
    return space.read(offset, width);
  }
  void write_config(unsigned offset, unsigned width, std::uint32_t value) override {
    space.write(offset, width, value);
  }
  std::string name;
  ConfigSpace space;
};

constexpr std::uint64_t ecam(unsigned bus, unsigned slot, unsigned function, unsigned reg) {
  return std::uint64_t{bus} << 20 | slot << 15 | function << 12 | reg;
}

struct Machine {
  PciRoot root;
  Function disk{"disk:root"};

  void latch(unsigned bus, unsigned slot, unsigned function, unsigned reg) {
    root.ports().write(0, 4, kEnable | bus << 16 | slot << 11 | function << 8 | (reg & 0xfc));
  }
  std::uint64_t read_port(unsigned slot, unsigned reg, unsigned width) {
    latch(0, slot, 0, reg);
    return root.ports().read(4 + (reg & 3), width);
  }
};

}  // namespace

TEST_CASE_FIXTURE(Machine, "the host bridge is at 00:00.0") {
  CHECK(root.ecam().read(0, 4) == 0x0d57'8086);
  CHECK(root.ecam().read(8, 4) == 0x0600'0000);
  CHECK(root.ecam().read(kPciHeaderType, 1) == 0);
}

TEST_CASE_FIXTURE(Machine, "ports and ECAM agree on every register, in every width") {
  REQUIRE(root.add_device(3, &disk));
  for (unsigned i = 0; i < 256; ++i) disk.space.set(i, 1, 0x5a ^ i);
  for (const unsigned width : {1U, 2U, 4U}) {
    for (unsigned reg = 0; reg < 256; reg += width) {
      const std::uint64_t value = root.ecam().read(ecam(0, 3, 0, reg), width);
      CHECK(value == disk.space.read(reg, width));
      CHECK(read_port(3, reg, width) == value);
    }
  }
}

TEST_CASE_FIXTURE(Machine, "what one mechanism writes the other reads") {
  REQUIRE(root.add_device(3, &disk));
  latch(0, 3, 0, kPciInterruptLine);
  root.ports().write(4, 1, 0x17);
  CHECK(root.ecam().read(ecam(0, 3, 0, kPciInterruptLine), 1) == 0x17);
  root.ecam().write(ecam(0, 3, 0, kPciCommand), 2, 0xffff);
  CHECK(read_port(3, kPciCommand, 2) == 0x0547);
}

TEST_CASE_FIXTURE(Machine, "registers beyond the first 256 are reached by ECAM only") {
  struct Extended final : PciDevice {
    [[nodiscard]] std::string_view pci_name() const override { return "extended"; }
    [[nodiscard]] std::uint32_t read_config(unsigned offset, unsigned /*width*/) override { return offset; }
    void write_config(unsigned /*offset*/, unsigned /*width*/, std::uint32_t /*value*/) override {}
  } extended;
  REQUIRE(root.add_device(31, &extended));
  CHECK(root.ecam().read(ecam(0, 31, 0, 0xffc), 4) == 0xffc);
  CHECK(read_port(31, 0xffc, 4) == 0xfc);
}

TEST_CASE("a function without extended capabilities reads zeros beyond its first 256 registers") {
  ConfigSpace space({.vendor_id = 1, .device_id = 2});
  space.set(0xfc, 4, 0x1122'3344);
  space.write(0x100, 4, 0xffff'ffff);
  CHECK(space.read(0xfc, 4) == 0x1122'3344);
  CHECK(space.read(0x100, 4) == 0);
  CHECK(space.read(0xffe, 2) == 0);
  CHECK(space.check(space.save(), "u", "f").has_value());
  CHECK_FALSE(space.check(std::string(257, '\0'), "u", "f").has_value());
}

TEST_CASE_FIXTURE(Machine, "absent slots, functions and buses read all ones and take no write") {
  REQUIRE(root.add_device(3, &disk));
  for (const auto& [bus, slot, function] :
       {std::array{0U, 4U, 0U}, {0U, 3U, 1U}, {0U, 0U, 7U}, {1U, 3U, 0U}, {255U, 31U, 7U}}) {
    CHECK(root.ecam().read(ecam(bus, slot, function, 0), 4) == 0xffff'ffff);
    CHECK(root.ecam().read(ecam(bus, slot, function, 0), 2) == 0xffff);
    root.ecam().write(ecam(bus, slot, function, kPciInterruptLine), 1, 0x99);
    latch(bus, slot, function, 0);
    CHECK(root.ports().read(4, 4) == 0xffff'ffff);
    latch(bus, slot, function, kPciInterruptLine);
    root.ports().write(4, 1, 0x99);
  }
  CHECK(root.ecam().read(ecam(0, 3, 0, kPciInterruptLine), 1) == 0);
  CHECK(root.ecam().read(ecam(0, 0, 0, kPciInterruptLine), 1) == 0);
}

TEST_CASE_FIXTURE(Machine, "the address register takes aligned double words only, and no reserved bits") {
  root.ports().write(0, 4, 0xffff'ffff);
  CHECK(root.ports().read(0, 4) == 0x80ff'fffc);
  for (std::uint64_t offset = 0; offset < 4; ++offset) {
    for (const unsigned width : {1U, 2U, 4U, 8U}) {
      if (offset == 0 && width == 4) continue;
      root.ports().write(offset, width, 0);
      CHECK(root.ports().read(offset, width) == all_ones(width));
    }
  }
  CHECK(root.ports().read(0, 4) == 0x80ff'fffc);
}

TEST_CASE_FIXTURE(Machine, "without the enable bit the data port leads nowhere") {
  root.ports().write(0, 4, 0);
  CHECK(root.ports().read(4, 4) == 0xffff'ffff);
  root.ports().write(0, 4, kPciInterruptLine);
  root.ports().write(4, 1, 0x44);
  CHECK(root.ecam().read(kPciInterruptLine, 1) == 0);
}

TEST_CASE_FIXTURE(Machine, "accesses that are not naturally aligned, or of 8 bytes, do nothing") {
  latch(0, 0, 0, 0);
  for (std::uint64_t offset = 0; offset < 8; ++offset) {
    for (const unsigned width : {2U, 4U, 8U}) {
      if (width != 8 && offset % width == 0) continue;
      root.ecam().write(offset, width, ~0ULL);
      CHECK(root.ecam().read(offset, width) == all_ones(width));
      if (offset >= 4) CHECK(root.ports().read(offset, width) == all_ones(width));
    }
  }
  CHECK(root.ecam().read(kPciCommand, 2) == 0);
}

TEST_CASE_FIXTURE(Machine, "a slot holds one device, and both are named when a second wants it") {
  Function net("net:eth0");
  REQUIRE(root.add_device(3, &disk));
  const Status status = root.add_device(3, &net);
  REQUIRE_FALSE(status);
  CHECK(status.error().code == ErrorCode::Conflict);
  CHECK(status.error().to_string().find("disk:root") != std::string::npos);
  CHECK(status.error().to_string().find("net:eth0") != std::string::npos);
  CHECK(root.add_device(0, &net).error().code == ErrorCode::Conflict);
  CHECK(root.add_device(32, &net).error().code == ErrorCode::BadRequest);
}

TEST_CASE_FIXTURE(Machine, "a removed device is gone and its slot is free") {
  REQUIRE(root.add_device(1, &disk));
  CHECK(root.free_slot() == 2U);
  REQUIRE(root.remove_device(1));
  CHECK(root.ecam().read(ecam(0, 1, 0, 0), 4) == 0xffff'ffff);
  CHECK(root.free_slot() == 1U);
  for (const unsigned slot : {0U, 1U, 32U})
    CHECK(root.remove_device(slot).error().code == ErrorCode::NotFound);
}

TEST_CASE("read-only bits stay, writable ones follow, error bits clear by one") {
  ConfigSpace space({.vendor_id = 0x1122,
                     .device_id = 0x3344,
                     .class_code = 0x01'80'02,
                     .revision = 5,
                     .subsystem_vendor_id = 0x5566,
                     .subsystem_id = 0x7788});
  space.set(kPciStatus, 2, 0xf910);
  for (unsigned offset = 0; offset < ConfigSpace::kSize; offset += 4) space.write(offset, 4, 0xffff'ffff);
  CHECK(space.read(0, 4) == 0x3344'1122);
  CHECK(space.read(8, 4) == 0x0180'0205);
  CHECK(space.read(kPciSubsystemVendorId, 4) == 0x7788'5566);
  CHECK(space.read(kPciStatus, 2) == 0x0010);
  CHECK(space.command() == 0x0547);
  CHECK(space.read(kPciBar0, 4) == 0);
  CHECK(space.read(0xffc, 4) == 0);
  space.set_writable(0xfc, 4, 0x0000'fff0);
  space.write(0xfc, 4, 0x1234'5678);
  CHECK(space.read(0xfc, 4) == 0x5670);
}

TEST_CASE("a status bit is not cleared by writing zero") {
  ConfigSpace space({.vendor_id = 1, .device_id = 2});
  space.set(kPciStatus, 2, 0x8100);
  space.write(kPciStatus, 2, 0x0100);
  CHECK(space.read(kPciStatus, 2) == 0x8000);
}

TEST_CASE_FIXTURE(Machine, "a cold root takes over the latch and the host bridge's registers") {
  root.ecam().write(kPciCommand, 2, 0x0143);
  root.ecam().write(kPciCacheLineSize, 2, 0x7721);
  root.ecam().write(kPciInterruptLine, 1, 0x0b);
  root.ports().write(0, 4, 0x8012'3458);
  const auto saved = root.save();
  REQUIRE(saved);
  PciRoot cold;
  REQUIRE(cold.restore(*saved));
  CHECK(cold.ports().read(0, 4) == 0x8012'3458);
  for (unsigned reg = 0; reg < 0x1000; reg += 4) CHECK(cold.ecam().read(reg, 4) == root.ecam().read(reg, 4));
  CHECK(cold.save()->value == saved->value);
}

TEST_CASE_FIXTURE(Machine, "a state of another machine is refused and changes nothing") {
  root.ecam().write(kPciInterruptLine, 1, 0x0b);
  const auto before = root.save();
  state::PciRoot good;
  REQUIRE(good.ParseFromString(before->value));
  const auto refused = [&](auto spoil) {
    state::PciRoot bad = good;
    spoil(bad);
    const Status status = root.restore(pack_state(bad));
    REQUIRE_FALSE(status);
    CHECK(status.error().code == ErrorCode::BadRequest);
    CHECK(root.save()->value == before->value);
  };
  refused([](state::PciRoot& m) { m.set_address(0x8000'0001); });
  refused([](state::PciRoot& m) { m.set_address(0x0100'0000); });
  refused([](state::PciRoot& m) { (*m.mutable_host_bridge())[2] = 0x12; });
  refused([](state::PciRoot& m) { m.clear_host_bridge(); });
  refused([](state::PciRoot& m) { m.mutable_host_bridge()->resize(ConfigSpace::kSize + 1); });
  refused([](state::PciRoot& m) {
    m.mutable_host_bridge()->resize(ConfigSpace::kSize);
    m.mutable_host_bridge()->back() = 1;
  });
}

TEST_CASE_FIXTURE(Machine, "reset gives latch and host bridge their power-on state and keeps the devices") {
  REQUIRE(root.add_device(3, &disk));
  root.ecam().write(kPciInterruptLine, 1, 0x0b);
  latch(0, 3, 0, 0);
  root.reset();
  CHECK(root.ports().read(0, 4) == 0);
  CHECK(root.ecam().read(kPciInterruptLine, 1) == 0);
  CHECK(root.ecam().read(ecam(0, 3, 0, 0), 4) == 0x1042'1af4);
}
