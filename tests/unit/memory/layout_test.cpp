#include "daemon/memory/layout.h"

#include <doctest/doctest.h>

using namespace vmmd;
using namespace vmmd::memory;

namespace {
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
}

TEST_CASE("RAM up to the hole is one range") {
  const auto ram = ram_layout(3 * kGiB, 46);
  REQUIRE(ram);
  REQUIRE(ram->size() == 1);
  CHECK(ram->front().size == 3 * kGiB);
  CHECK(pci_windows(*ram, 46).high.start == 4 * kGiB);
}

TEST_CASE("RAM beyond the hole goes on at 4 GiB, flat in the file") {
  const auto ram = ram_layout(64 * kGiB, 46);
  REQUIRE(ram);
  REQUIRE(ram->size() == 2);
  CHECK(ram->at(0).size == 3 * kGiB);
  CHECK(ram->at(1).start.value == 4 * kGiB);
  CHECK(ram->at(1).size == 61 * kGiB);
  CHECK(ram->at(1).file_offset == 3 * kGiB);
  CHECK(pci_windows(*ram, 46).high.start == 65 * kGiB);
}

TEST_CASE("sizes that cannot be are refused") {
  CHECK_FALSE(ram_layout(0, 46));
  CHECK_FALSE(ram_layout(4097, 46));
  CHECK_FALSE(ram_layout(64 * kGiB, 36));
  CHECK(ram_layout(60 * kGiB, 36));
  CHECK_FALSE(ram_layout(~std::uint64_t{4095}, 52));
}

TEST_CASE("other memory lies above RAM, and PCI BARs above both") {
  constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
  const auto ram = ram_layout(5 * kGiB, 46);
  REQUIRE(ram);
  const auto starts = place_above_ram(*ram, {3 * kMiB, 2 * kMiB, kGiB}, 46);
  REQUIRE(starts);
  CHECK(*starts == std::vector<std::uint64_t>{6 * kGiB, 6 * kGiB + 4 * kMiB, 6 * kGiB + 6 * kMiB});
  CHECK(pci_windows(*ram, 46, starts->back() + kGiB).high.start == 8 * kGiB);
  CHECK(place_above_ram(*ram, {}, 46)->empty());
}

TEST_CASE("other memory that does not fit below the CPU's limit is refused") {
  const auto ram = ram_layout(5 * kGiB, 36);
  REQUIRE(ram);
  CHECK(place_above_ram(*ram, {58 * kGiB}, 36));
  CHECK_FALSE(place_above_ram(*ram, {58 * kGiB + 4096}, 36));
  CHECK_FALSE(place_above_ram(*ram, {58 * kGiB, 4096}, 36));
  CHECK_FALSE(place_above_ram(*ram, {~std::uint64_t{0}}, 52));
}
