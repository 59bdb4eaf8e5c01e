#include "devices/guest_memory.h"

#include <array>
#include <vector>

#include <doctest/doctest.h>

using namespace vmmd::devices;

namespace {
struct Fixture {
  std::vector<std::byte> low = std::vector<std::byte>(0x1000);
  std::vector<std::byte> next = std::vector<std::byte>(0x1000);
  std::vector<std::byte> high = std::vector<std::byte>(0x1000);
  GuestMemory memory{{{GuestAddress(0), 0x1000, low.data()},
                      {GuestAddress(0x1000), 0x1000, next.data()},
                      {GuestAddress(0x1'0000'0000), 0x1000, high.data()}}};
};
struct Dirty final : DirtySink {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> marks;
  void mark_dirty(GuestAddress address, std::uint64_t length) override {
    marks.emplace_back(address.value, length);
  }
};
}  // namespace

TEST_CASE_FIXTURE(Fixture, "typed access spans adjacent regions") {
  REQUIRE(memory.store(GuestAddress(0xffc), std::uint64_t{0x1122334455667788}));
  CHECK(memory.load<std::uint64_t>(GuestAddress(0xffc)) == 0x1122334455667788);
  CHECK(low[0xffc] == std::byte{0x88});
  CHECK(next[3] == std::byte{0x11});
}

TEST_CASE_FIXTURE(Fixture, "an access that leaves RAM by one byte changes nothing") {
  CHECK_FALSE(memory.store(GuestAddress(0x1ffd), std::uint32_t{0xffffffff}));
  CHECK(next[0xffd] == std::byte{0});
  CHECK_FALSE(memory.load<std::uint8_t>(GuestAddress(0x2000)));
  CHECK_FALSE(memory.load<std::uint16_t>(GuestAddress(0x1'0000'0fff)));
}

TEST_CASE_FIXTURE(Fixture, "addresses that wrap around are refused") {
  std::array<std::byte, 16> buffer{};
  CHECK_FALSE(memory.read(GuestAddress(~std::uint64_t{0} - 3), buffer));
  CHECK_FALSE(memory.contains(GuestAddress(0), ~std::uint64_t{0}));
  CHECK_FALSE(GuestAddress(~std::uint64_t{0}).checked_add(1));
}

TEST_CASE_FIXTURE(Fixture, "slices never cross a region") {
  CHECK(memory.slice(GuestAddress(0xf00), 0x100).size() == 0x100);
  CHECK(memory.slice(GuestAddress(0xf00), 0x101).empty());
  CHECK(memory.slice(GuestAddress(0x5000), 1).empty());
}

TEST_CASE_FIXTURE(Fixture, "every write is reported dirty, a refused one is not") {
  Dirty dirty;
  memory.set_dirty_sink(&dirty);
  REQUIRE(memory.store(GuestAddress(0x10), std::uint32_t{1}));
  REQUIRE(memory.fill(GuestAddress(0x20), 0x40, std::byte{1}));
  CHECK_FALSE(memory.store(GuestAddress(0x2000), std::uint32_t{1}));
  REQUIRE(dirty.marks.size() == 2);
  CHECK(dirty.marks[0] == std::pair<std::uint64_t, std::uint64_t>{0x10, 4});
  CHECK(dirty.marks[1] == std::pair<std::uint64_t, std::uint64_t>{0x20, 0x40});
}
