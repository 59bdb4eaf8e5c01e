#include "daemon/memory/ram_reclaim.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>

#include <doctest/doctest.h>

#include "base/file.h"
#include "tests/unit/support/residency.h"
#include "tests/unit/support/temp_dir.h"

using namespace vmmd;
using devices::GuestAddress;
using memory::GuestRam;
using memory::kPageSize;
using memory::RamReclaim;
using testing::TempDir;

namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kLow = 2 * kMiB;
constexpr std::uint64_t kSize = 3 * kMiB;

std::vector<memory::RamRange> two_ranges() {
  return {{GuestAddress(0), kLow, 0}, {GuestAddress(memory::kHighRamStart), kMiB, kLow}};
}

api::MemoryConfig config_of() {
  api::MemoryConfig config;
  config.size = kSize;
  config.thp = false;
  return config;
}

GuestRam taken(Result<GuestRam> ram) {
  if (!ram) FAIL(ram.error().to_string());
  return std::move(*ram);
}

void fill(const GuestRam& ram, char letter) {
  for (const auto& region : ram.regions()) std::memset(region.host, letter, region.size);
}

char letter_at(const GuestRam& ram, unsigned region, std::uint64_t offset) {
  return static_cast<char>(ram.regions()[region].host[offset]);
}

std::uint64_t stored_bytes(int fd) {
  struct stat info = {};
  REQUIRE(::fstat(fd, &info) == 0);
  return static_cast<std::uint64_t>(info.st_blocks) * 512;
}

/// A file of 3 MiB of 's', as a snapshot's memory.bin.
UniqueFd snapshot_file(const std::string& path) {
  auto fd = open_file(path, O_RDWR | O_CREAT, 0600);
  REQUIRE(fd);
  const std::string content(kSize, 's');
  REQUIRE(::pwrite(fd->get(), content.data(), content.size(), 0) == static_cast<ssize_t>(kSize));
  return std::move(*fd);
}

}  // namespace

TEST_CASE("discarded pages leave anonymous memory and read as zeros; their neighbours stay") {
  const GuestRam ram = taken(GuestRam::allocate(config_of(), two_ranges()));
  fill(ram, 'a');
  const auto* low = ram.regions()[0].host;
  REQUIRE(testing::resident_pages(low, kLow) == kLow / kPageSize);
  RamReclaim reclaim(ram);
  CHECK(reclaim.granularity() == kPageSize);
  CHECK(*reclaim.discard(GuestAddress(0x3000), 0x5000) == 0x5000);
  CHECK(testing::resident_pages(low, kLow) == kLow / kPageSize - 5);
  CHECK(letter_at(ram, 0, 0x2fff) == 'a');
  CHECK(letter_at(ram, 0, 0x3000) == 0);
  CHECK(letter_at(ram, 0, 0x7fff) == 0);
  CHECK(letter_at(ram, 0, 0x8000) == 'a');
}

TEST_CASE("only whole pages are discarded") {
  const GuestRam ram = taken(GuestRam::allocate(config_of(), two_ranges()));
  fill(ram, 'a');
  RamReclaim reclaim(ram);
  CHECK(*reclaim.discard(GuestAddress(0x1001), 0x1ffe) == 0);
  CHECK(*reclaim.discard(GuestAddress(0x1001), 0x1fff) == 0x1000);
  CHECK(letter_at(ram, 0, 0x1fff) == 'a');
  CHECK(letter_at(ram, 0, 0x2000) == 0);
}

TEST_CASE("a discard reaches over the end of a range and ignores what is not RAM") {
  const GuestRam ram = taken(GuestRam::allocate(config_of(), two_ranges()));
  fill(ram, 'a');
  RamReclaim reclaim(ram);
  CHECK(*reclaim.discard(GuestAddress(kLow), kPageSize) == 0);
  CHECK(*reclaim.discard(GuestAddress(kLow - kPageSize), UINT64_MAX) == kPageSize + kMiB);
  CHECK(letter_at(ram, 0, kLow - kPageSize - 1) == 'a');
  CHECK(letter_at(ram, 1, 0) == 0);
}

TEST_CASE("discarded pages leave shared memory") {
  api::MemoryConfig config = config_of();
  config.shared = true;
  const GuestRam ram = taken(GuestRam::allocate(config, two_ranges()));
  fill(ram, 'm');
  REQUIRE(stored_bytes(ram.fd()) == kSize);
  RamReclaim reclaim(ram);
  CHECK(*reclaim.discard(GuestAddress(memory::kHighRamStart + 0x4000), 0x3000) == 0x3000);
  CHECK(stored_bytes(ram.fd()) == kSize - 0x3000);
  CHECK(letter_at(ram, 1, 0x3fff) == 'm');
  CHECK(letter_at(ram, 1, 0x4000) == 0);
  CHECK(letter_at(ram, 1, 0x7000) == 'm');
}

TEST_CASE("discarded pages become a hole of the memory file") {
  const TempDir dir;
  api::MemoryConfig config = config_of();
  config.file = dir / "ram";
  const GuestRam ram = taken(GuestRam::allocate(config, two_ranges()));
  fill(ram, 'f');
  REQUIRE(::fsync(ram.fd()) == 0);  // some filesystems allot their blocks only then
  const std::uint64_t before = stored_bytes(ram.fd());
  RamReclaim reclaim(ram);
  CHECK(*reclaim.discard(GuestAddress(memory::kHighRamStart), kMiB) == kMiB);
  CHECK(stored_bytes(ram.fd()) <= before - kMiB);
  CHECK(letter_at(ram, 0, kLow - 1) == 'f');
  CHECK(letter_at(ram, 1, 0) == 0);
}

TEST_CASE("nothing is punched out of a memory file that has a second name") {
  const TempDir dir;
  api::MemoryConfig config = config_of();
  config.file = dir / "ram";
  const GuestRam ram = taken(GuestRam::allocate(config, two_ranges()));
  fill(ram, 'f');
  std::filesystem::create_hard_link(dir / "ram", dir / "memory.bin");
  RamReclaim reclaim(ram);
  const auto refused = reclaim.discard(GuestAddress(0x1000), 0x1000);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == ErrorCode::Conflict);
  CHECK(letter_at(ram, 0, 0x1000) == 'f');
}

TEST_CASE("discarding copies of a snapshot's pages uncovers the snapshot, which stays as it is") {
  const TempDir dir;
  UniqueFd file = snapshot_file(dir / "memory.bin");
  const GuestRam ram = taken(GuestRam::copy_on_write(std::move(file), two_ranges(), config_of()));
  fill(ram, 'c');
  RamReclaim reclaim(ram);
  CHECK(*reclaim.discard(GuestAddress(0x1000), 0x2000) == 0x2000);
  CHECK(letter_at(ram, 0, 0xfff) == 'c');
  CHECK(letter_at(ram, 0, 0x1000) == 's');
  CHECK(letter_at(ram, 0, 0x3000) == 'c');
  char stored = 0;
  REQUIRE(::pread(ram.fd(), &stored, 1, 0) == 1);
  CHECK(stored == 's');
}

TEST_CASE("after a link snapshot, a discard leaves the snapshot alone") {
  const TempDir dir;
  api::MemoryConfig config = config_of();
  config.file = dir / "ram";
  GuestRam ram = taken(GuestRam::allocate(config, two_ranges()));
  fill(ram, 'f');
  std::filesystem::create_hard_link(dir / "ram", dir / "memory.bin");
  REQUIRE(ram.remap_private());
  fill(ram, 'n');
  RamReclaim reclaim(ram);
  CHECK(*reclaim.discard(GuestAddress(0), kLow) == kLow);
  CHECK(letter_at(ram, 0, 0x5000) == 'f');
  char stored = 0;
  REQUIRE(::pread(ram.fd(), &stored, 1, 0x5000) == 1);
  CHECK(stored == 'f');
}
