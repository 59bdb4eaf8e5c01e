// What the kernel is told of guest RAM's pages: when they shall be there, and what may be done with them.
#include <fcntl.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "base/file.h"
#include "daemon/memory/guest_ram.h"
#include "tests/unit/support/page_map.h"
#include "tests/unit/support/temp_dir.h"

using namespace vmmd;
using memory::GuestRam;
using memory::RamRange;
using testing::count_pages;
using testing::TempDir;

namespace {

constexpr std::uint64_t kMiB = 1 << 20;

std::vector<RamRange> two_ranges(std::uint64_t first, std::uint64_t second) {
  return {{devices::GuestAddress(0), first, 0},
          {devices::GuestAddress(memory::kHighRamStart), second, first}};
}

api::MemoryConfig config_of(std::uint64_t size) {
  api::MemoryConfig config;
  config.size = size;
  config.thp = false;
  return config;
}

GuestRam take(Result<GuestRam> ram) {
  if (!ram) FAIL(ram.error().to_string());
  return std::move(*ram);
}

std::set<std::string> flags_of(const api::MemoryConfig& config) {
  const GuestRam ram = take(GuestRam::allocate(config, two_ranges(2 * kMiB, kMiB)));
  auto flags = testing::mapping_flags(ram.regions()[0].host);
  REQUIRE(flags.contains("rd"));
  return flags;
}

std::size_t mapped_bytes(const devices::GuestRegion& region) {
  return count_pages(region.host, region.size).mapped * memory::kPageSize;
}

bool go_on(std::uint64_t /*bytes*/) {
  return true;
}

bool exists(const char* path) {
  return ::access(path, F_OK) == 0;
}

}  // namespace

TEST_CASE("prefaulted RAM is all there before the guest runs") {
  api::MemoryConfig config = config_of(3 * kMiB);
  const TempDir dir;
  SUBCASE("anonymous") {}
  SUBCASE("shared") {
    config.shared = true;
  }
  SUBCASE("a file") {
    config.file = dir / "ram";
  }
  const GuestRam ram = take(GuestRam::allocate(config, two_ranges(2 * kMiB, kMiB)));
  for (const auto& region : ram.regions()) CHECK(mapped_bytes(region) == 0);
  REQUIRE(ram.prefault(go_on));
  for (const auto& region : ram.regions()) {
    CHECK(mapped_bytes(region) == region.size);
  }
}

TEST_CASE("prefaulted copy-on-write RAM is all there, and nothing of it has been copied") {
  const TempDir dir;
  const std::string path = dir / "memory.bin";
  constexpr std::uint64_t kHole = 4 * memory::kPageSize;  // a snapshot has holes where RAM was zero
  auto file = open_file(path, O_RDWR | O_CREAT, 0600);
  REQUIRE(file);
  const std::vector<std::byte> content(3 * kMiB - kHole, std::byte{0x5A});
  REQUIRE(write_all_at(file->get(), content, kHole, "memory.bin"));
  const GuestRam ram =
      take(GuestRam::copy_on_write(std::move(*file), two_ranges(2 * kMiB, kMiB), config_of(3 * kMiB)));
  for (const auto& region : ram.regions()) CHECK(mapped_bytes(region) == 0);
  REQUIRE(ram.prefault(go_on));
  for (const auto& region : ram.regions()) {
    CHECK(mapped_bytes(region) == region.size);
    CHECK(count_pages(region.host, region.size).own == 0);
  }
  CHECK(ram.regions()[0].host[0] == std::byte{0});
  CHECK(ram.regions()[0].host[kHole] == std::byte{0x5A});
}

TEST_CASE("prefaulting tells how far it is, and ends where it is told to") {
  constexpr std::uint64_t kFirst = 40 * kMiB;
  constexpr std::uint64_t kSecond = 8 * kMiB;
  const GuestRam ram = take(GuestRam::allocate(config_of(kFirst + kSecond), two_ranges(kFirst, kSecond)));
  std::uint64_t told = 0;
  unsigned pieces = 0;
  SUBCASE("told to go on") {
    REQUIRE(ram.prefault([&](std::uint64_t bytes) {
      told += bytes;
      ++pieces;
      return true;
    }));
    CHECK(told == ram.size());
    CHECK(pieces == 4);  // of 16 MiB, and what is left of each range
  }
  SUBCASE("told to end") {
    const Status status = ram.prefault([&](std::uint64_t bytes) {
      told += bytes;
      return ++pieces < 2;
    });
    REQUIRE_FALSE(status);
    CHECK(status.error().code == ErrorCode::Conflict);
    CHECK(pieces == 2);
    CHECK(told == 32 * kMiB);
    // A host whose transparent huge pages are always on gives a bit more than it is asked for.
    CHECK(mapped_bytes(ram.regions()[0]) >= told);
    CHECK(mapped_bytes(ram.regions()[0]) <= told + 2 * kMiB);
    CHECK(mapped_bytes(ram.regions()[1]) <= 2 * kMiB);
  }
}

TEST_CASE("mergeable RAM is what KSM may look through, other RAM is not") {
  if (!exists("/sys/kernel/mm/ksm")) {
    MESSAGE("SKIPPED: this kernel has no KSM");
    return;
  }
  api::MemoryConfig config = config_of(3 * kMiB);
  CHECK_FALSE(flags_of(config).contains("mg"));
  config.mergeable = true;
  CHECK(flags_of(config).contains("mg"));
}

TEST_CASE("thp asks for huge pages, and only then") {
  if (!exists("/sys/kernel/mm/transparent_hugepage")) {
    MESSAGE("SKIPPED: this kernel has no transparent huge pages");
    return;
  }
  api::MemoryConfig config = config_of(3 * kMiB);
  CHECK_FALSE(flags_of(config).contains("hg"));
  config.thp = true;
  CHECK(flags_of(config).contains("hg"));
}

TEST_CASE("reserve takes RAM out of what the host may promise to others") {
  int overcommit = 0;
  std::ifstream("/proc/sys/vm/overcommit_memory") >> overcommit;
  if (overcommit == 2) {
    MESSAGE("SKIPPED: vm.overcommit_memory = 2 reserves everything");
    return;
  }
  api::MemoryConfig config = config_of(3 * kMiB);
  CHECK(flags_of(config).contains("nr"));
  config.reserve = true;
  CHECK_FALSE(flags_of(config).contains("nr"));
}
