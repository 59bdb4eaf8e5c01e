#include "daemon/x86/boot_memory_map.h"

#include <doctest/doctest.h>

#include "daemon/memory/layout.h"

using namespace vmmd;
using namespace vmmd::x86;

namespace {
constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
constexpr std::uint64_t kNoLimit = ~std::uint64_t{0};

std::vector<memory::RamRange> ram_of(std::uint64_t size) {
  return *memory::ram_layout(size, 46);
}
}  // namespace

TEST_CASE("the memory map ascends without overlaps and counts all RAM but the legacy hole") {
  for (const std::uint64_t size : {2 * kMiB, 128 * kMiB, 3 * kGiB, 3 * kGiB + 4096, 64 * kGiB}) {
    CAPTURE(size);
    std::uint64_t end = 0;
    std::uint64_t usable = 0;
    for (const MemoryMapEntry& entry : boot_memory_map(ram_of(size))) {
      CHECK(entry.start.value >= end);
      CHECK(entry.size != 0);
      end = entry.start.value + entry.size;
      if (entry.type == MemoryType::Ram) usable += entry.size;
    }
    CHECK(usable == size - (0x10'0000 - 0x9'FC00));
  }
}

TEST_CASE("the memory map reserves the legacy hole and the ECAM window") {
  const auto map = boot_memory_map(ram_of(5 * kGiB));
  REQUIRE(map.size() == 6);
  CHECK(map[1].start.value == 0x9'FC00);
  CHECK(map[1].start.value + map[1].size == kMiB);
  CHECK(map[1].type == MemoryType::Reserved);
  CHECK(map[3].start.value == 0xE800'0000);
  CHECK(map[3].size == 0x1000'0000);
  CHECK(map[3].type == MemoryType::Reserved);
  CHECK(map[5].start.value == 4 * kGiB);
  CHECK(map[5].size == 2 * kGiB);
  CHECK(map[5].type == MemoryType::Ram);
}

TEST_CASE("a place is the highest page that fits") {
  CHECK(place_high(ram_of(8 * kMiB), {}, 4097, kNoLimit)->value == 8 * kMiB - 8192);
  CHECK(place_high(ram_of(8 * kMiB), {}, 7 * kMiB, kNoLimit)->value == kMiB);
  CHECK_FALSE(place_high(ram_of(8 * kMiB), {}, 7 * kMiB + 1, kNoLimit));
  CHECK_FALSE(place_high(ram_of(8 * kMiB), {}, ~std::uint64_t{0}, kNoLimit));
  CHECK_FALSE(place_high(ram_of(8 * kMiB), {}, 0, kNoLimit));
}

TEST_CASE("a place stays below the limit, and above 4 GiB only where the limit allows it") {
  const auto ram = ram_of(5 * kGiB);
  CHECK(place_high(ram, {}, kMiB, 4 * kGiB)->value == 3 * kGiB - kMiB);
  CHECK(place_high(ram, {}, kMiB, 0x8000'0000)->value == 0x8000'0000 - kMiB);
  CHECK(place_high(ram, {}, kMiB, kNoLimit)->value == 6 * kGiB - kMiB);
  CHECK_FALSE(place_high(ram, {}, kMiB, kMiB));
}

TEST_CASE("a place avoids what is taken, whatever the order of the list") {
  const auto ram = ram_of(16 * kMiB);
  const std::vector<Span> taken{{2 * kMiB, 3 * kMiB}, {15 * kMiB + 1, 15 * kMiB + 2}, {9 * kMiB, 14 * kMiB}};
  CHECK(place_high(ram, taken, 4096, kNoLimit)->value == 16 * kMiB - 4096);
  CHECK(place_high(ram, taken, kMiB, kNoLimit)->value == 14 * kMiB);
  CHECK(place_high(ram, taken, 2 * kMiB, kNoLimit)->value == 7 * kMiB);
  CHECK(place_high(ram, taken, 6 * kMiB, kNoLimit)->value == 3 * kMiB);
  CHECK_FALSE(place_high(ram, taken, 6 * kMiB + 1, kNoLimit));
}

TEST_CASE("overlapping spans hide each other") {
  const std::vector<Span> taken{{2 * kMiB, 16 * kMiB}, {8 * kMiB, 9 * kMiB}, {4 * kMiB, 12 * kMiB}};
  CHECK(place_high(ram_of(16 * kMiB), taken, kMiB, kNoLimit)->value == kMiB);
}
