#include "devices/bus.h"

#include <vector>

#include <doctest/doctest.h>

using namespace vmmd;
using namespace vmmd::devices;

namespace {
struct Recorder final : BusDevice {
  struct Access {
    std::uint64_t offset, value;
    unsigned width;
  };
  std::vector<Access> writes;
  std::uint64_t answer = 0x1122'3344'5566'7788;
  std::uint64_t read(std::uint64_t, unsigned) override { return answer; }
  void write(std::uint64_t offset, unsigned width, std::uint64_t value) override {
    writes.push_back({offset, value, width});
  }
};
}  // namespace

TEST_CASE("a device sees offsets, and only as many bytes as were accessed") {
  Bus bus("port", 0x10000);
  Recorder device;
  REQUIRE(bus.map({"dev", 0x3f8, 8, kWidth1 | kWidth2, &device}));
  bus.write(0x3fa, 1, 0xabcd);
  REQUIRE(device.writes.size() == 1);
  CHECK(device.writes[0].offset == 2);
  CHECK(device.writes[0].value == 0xcd);
  CHECK(bus.read(0x3f8, 2) == 0x7788);
}

TEST_CASE(
    "holes, wrong widths and accesses that straddle a region's end read as all ones and write nothing") {
  Bus bus("mmio");
  Recorder device;
  REQUIRE(bus.map({"dev", 0x1000, 16, kWidth4, &device}));
  CHECK(bus.read(0xfff, 1) == 0xff);
  CHECK(bus.read(0x1010, 4) == 0xffff'ffff);
  CHECK(bus.read(0x1000, 8) == ~std::uint64_t{0});
  CHECK(bus.read(0x100e, 4) == 0xffff'ffff);
  bus.write(0x1000, 2, 1);
  bus.write(0x100e, 4, 1);
  CHECK(device.writes.empty());
}

TEST_CASE("overlap is refused and names both regions") {
  Bus bus("port", 0x10000);
  Recorder device;
  REQUIRE(bus.map({"first", 0x100, 0x10, kWidthAny, &device}));
  for (const auto& [base, length] :
       {std::pair{0x10fULL, 1ULL}, {0xf0ULL, 0x11ULL}, {0x104ULL, 2ULL}, {0xf0ULL, 0x100ULL}}) {
    const Status status = bus.map({"second", base, length, kWidthAny, &device});
    REQUIRE_FALSE(status);
    CHECK(status.error().code == ErrorCode::Conflict);
    CHECK(status.error().to_string().find("second") != std::string::npos);
    CHECK(status.error().to_string().find("first") != std::string::npos);
  }
  CHECK(bus.map({"before", 0xf0, 0x10, kWidthAny, &device}));
  CHECK(bus.map({"behind", 0x110, 0x10, kWidthAny, &device}));
}

TEST_CASE("regions beyond the bus or of no length are refused, the last byte is usable") {
  Bus bus("port", 0x10000);
  Recorder device;
  CHECK_FALSE(bus.map({"empty", 0x10, 0, kWidthAny, &device}));
  CHECK_FALSE(bus.map({"beyond", 0xffff, 2, kWidthAny, &device}));
  CHECK_FALSE(bus.map({"wraps", 0x10, ~std::uint64_t{0}, kWidthAny, &device}));
  CHECK(bus.map({"last", 0xffff, 1, kWidthAny, &device}));
}

TEST_CASE("an unmapped region is a hole again and its place is free") {
  Bus bus("mmio");
  Recorder device;
  REQUIRE(bus.map({"dev", 0x1000, 16, kWidthAny, &device}));
  CHECK_FALSE(bus.unmap(0x1004));
  REQUIRE(bus.unmap(0x1000));
  CHECK(bus.read(0x1000, 4) == 0xffff'ffff);
  CHECK(bus.map({"other", 0x1008, 16, kWidthAny, &device}));
}
