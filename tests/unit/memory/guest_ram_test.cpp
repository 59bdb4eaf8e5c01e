#include "daemon/memory/guest_ram.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include <doctest/doctest.h>

#include "base/file.h"
#include "tests/unit/support/residency.h"
#include "tests/unit/support/temp_dir.h"

using namespace vmmd;
using memory::Backing;
using memory::GuestRam;
using memory::RamRange;
using testing::TempDir;

namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kSize = 3 * kMiB;

// Two ranges, as RAM around the 32-bit hole, but small.
std::vector<RamRange> two_ranges() {
  return {{devices::GuestAddress(0), 2 * kMiB, 0},
          {devices::GuestAddress(memory::kHighRamStart), kMiB, 2 * kMiB}};
}

api::MemoryConfig config_of(std::uint64_t size = kSize) {
  api::MemoryConfig config;
  config.size = size;
  config.thp = false;
  return config;
}

api::MemoryConfig file_config(const std::string& path) {
  api::MemoryConfig config = config_of();
  config.file = path;
  return config;
}

GuestRam make(const api::MemoryConfig& config) {
  auto ram = GuestRam::allocate(config, two_ranges());
  if (!ram) FAIL(ram.error().to_string());
  return std::move(*ram);
}

// A word at a flat offset, through the mapping.
std::uint64_t& word(const GuestRam& ram, std::uint64_t flat) {
  const auto regions = ram.regions();
  const std::size_t range = flat < 2 * kMiB ? 0 : 1;
  return *reinterpret_cast<std::uint64_t*>(regions[range].host + (flat - range * 2 * kMiB));
}

std::uint64_t word_in_file(int fd, std::uint64_t offset) {
  std::uint64_t value = 0;
  REQUIRE(read_exact_at(fd, std::as_writable_bytes(std::span(&value, 1)), offset, "file"));
  return value;
}

UniqueFd open_rw(const std::string& path, int flags = 0) {
  auto fd = open_file(path, O_RDWR | flags, 0600);
  REQUIRE(fd);
  return std::move(*fd);
}

void refused(const Result<GuestRam>& ram, ErrorCode code, std::initializer_list<std::string> parts) {
  REQUIRE_FALSE(ram);
  CHECK(ram.error().code == code);
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(ram.error().to_string().find(part) != std::string::npos);
  }
}

constexpr std::uint64_t kLow = 0x1'2340;
constexpr std::uint64_t kHigh = 2 * kMiB + 0x5'6780;
constexpr std::uint64_t kOne = 0x0102'0304'0506'0708;
constexpr std::uint64_t kTwo = 0x1112'1314'1516'1718;

}  // namespace

TEST_CASE("RAM is by default anonymous, zero, and lies where the layout says") {
  const GuestRam ram = make(config_of());
  CHECK(ram.backing() == Backing::Anonymous);
  CHECK(ram.fd() == -1);
  CHECK(ram.size() == kSize);
  const auto regions = ram.regions();
  REQUIRE(regions.size() == 2);
  CHECK(regions[0].start.value == 0);
  CHECK(regions[0].size == 2 * kMiB);
  CHECK(regions[1].start.value == memory::kHighRamStart);
  CHECK(regions[1].size == kMiB);
  CHECK(word(ram, kLow) == 0);
  CHECK(word(ram, kHigh) == 0);
}

TEST_CASE("64 GiB of RAM map at once and take no memory until they are touched") {
  constexpr std::uint64_t kHuge = std::uint64_t{64} << 30;
  const auto layout = memory::ram_layout(kHuge, 46);
  REQUIRE(layout);
  api::MemoryConfig config = config_of(kHuge);
  SUBCASE("anonymous") {}
  SUBCASE("with transparent huge pages") {
    config.thp = true;
  }
  SUBCASE("shared") {
    config.shared = true;
  }
  const auto ram = GuestRam::allocate(config, *layout);
  REQUIRE(ram);
  CHECK(ram->size() == kHuge);
  for (const auto& region : ram->regions()) {
    constexpr std::uint64_t kPart = 64 * kMiB;
    CHECK(testing::resident_pages(region.host, kPart) == 0);
    CHECK(testing::resident_pages(region.host + region.size - kPart, kPart) == 0);
  }
}

TEST_CASE("shared RAM is a memfd, flat in the order of the ranges") {
  api::MemoryConfig config = config_of();
  config.shared = true;
  const GuestRam ram = make(config);
  CHECK(ram.backing() == Backing::SharedMemory);
  word(ram, kLow) = kOne;
  word(ram, kHigh) = kTwo;
  CHECK(word_in_file(ram.fd(), kLow) == kOne);
  CHECK(word_in_file(ram.fd(), kHigh) == kTwo);
}

TEST_CASE("a memory file is created for its owner alone, sized, and is the RAM") {
  const TempDir dir;
  const std::string path = dir / "ram";
  const GuestRam ram = make(file_config(path));
  CHECK(ram.backing() == Backing::File);
  struct stat info = {};
  REQUIRE(::stat(path.c_str(), &info) == 0);
  CHECK((info.st_mode & 07777) == 0600);
  CHECK(info.st_size == static_cast<off_t>(kSize));
  word(ram, kLow) = kOne;
  word(ram, kHigh) = kTwo;
  const UniqueFd fd = open_rw(path);
  CHECK(word_in_file(fd.get(), kLow) == kOne);
  CHECK(word_in_file(fd.get(), kHigh) == kTwo);
}

TEST_CASE("a memory file of the right size is kept with what it holds") {
  const TempDir dir;
  const std::string path = dir / "ram";
  {
    const GuestRam ram = make(file_config(path));
    word(ram, kHigh) = kOne;
  }
  const GuestRam ram = make(file_config(path));
  CHECK(word(ram, kHigh) == kOne);
}

TEST_CASE("a memory file of another size is refused with both sizes, and stays as it is") {
  const TempDir dir;
  const std::string path = dir / "ram";
  std::uint64_t actual = kSize + 4096;
  SUBCASE("larger") {}
  SUBCASE("smaller") {
    actual = kSize - 1;
  }
  {
    const UniqueFd fd = open_rw(path, O_CREAT);
    REQUIRE(::ftruncate(fd.get(), static_cast<off_t>(actual)) == 0);
    REQUIRE(write_all_at(fd.get(), std::as_bytes(std::span(&kOne, 1)), kLow, "ram"));
  }
  refused(GuestRam::allocate(file_config(path), two_ranges()), ErrorCode::BadRequest,
          {path, std::to_string(actual), std::to_string(kSize)});
  CHECK(std::filesystem::file_size(path) == actual);
  CHECK(word_in_file(open_rw(path).get(), kLow) == kOne);
}

TEST_CASE("a memory file with a second hard link may be a snapshot's and is refused") {
  const TempDir dir;
  const std::string path = dir / "ram";
  {
    const GuestRam ram = make(file_config(path));
  }
  std::filesystem::create_hard_link(path, dir / "memory.bin");
  refused(GuestRam::allocate(file_config(path), two_ranges()), ErrorCode::Conflict,
          {path, "2 hard links", "snapshot"});
  std::filesystem::remove(dir / "memory.bin");
  CHECK(GuestRam::allocate(file_config(path), two_ranges()));
}

TEST_CASE("a memory file that a VM uses is refused to another one, until the first is gone") {
  const TempDir dir;
  const std::string path = dir / "ram";
  {
    const GuestRam ram = make(file_config(path));
    refused(GuestRam::allocate(file_config(path), two_ranges()), ErrorCode::Conflict, {path, "in use"});
  }
  CHECK(GuestRam::allocate(file_config(path), two_ranges()));
}

TEST_CASE("what is not a regular file is refused as memory file without waiting for it") {
  const TempDir dir;
  const std::string path = dir / "fifo";
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  refused(GuestRam::allocate(file_config(path), two_ranges()), ErrorCode::BadRequest,
          {path, "not a regular file"});
  CHECK_FALSE(GuestRam::allocate(file_config(dir / "."), two_ranges()));
  CHECK_FALSE(GuestRam::allocate(file_config(dir / "missing/ram"), two_ranges()));
}

TEST_CASE("re-mapped privately, RAM keeps its content and address, and the file no longer changes") {
  const TempDir dir;
  const std::string path = dir / "ram";
  GuestRam ram = make(file_config(path));
  word(ram, kLow) = kOne;
  word(ram, kHigh) = kTwo;
  const auto before = ram.regions();
  REQUIRE(ram.remap_private());
  CHECK(ram.backing() == Backing::PrivateFile);
  CHECK(ram.regions()[0].host == before[0].host);
  CHECK(ram.regions()[1].host == before[1].host);
  CHECK(word(ram, kLow) == kOne);
  CHECK(word(ram, kHigh) == kTwo);
  word(ram, kLow) = 0xA1A2'A3A4'A5A6'A7A8;
  word(ram, kHigh) = 0xB1B2'B3B4'B5B6'B7B8;
  CHECK(word_in_file(ram.fd(), kLow) == kOne);
  CHECK(word_in_file(ram.fd(), kHigh) == kTwo);
  CHECK(word(ram, kHigh) == 0xB1B2'B3B4'B5B6'B7B8);
}

TEST_CASE("copy-on-write RAM reads the file and keeps changes to itself") {
  const TempDir dir;
  const std::string path = dir / "memory.bin";
  {
    const GuestRam ram = make(file_config(path));
    word(ram, kLow) = kOne;
    word(ram, kHigh) = kTwo;
  }
  const auto clone = [&] {
    auto file = open_file(path, O_RDONLY);
    REQUIRE(file);
    auto ram = GuestRam::copy_on_write(std::move(*file), two_ranges(), config_of());
    REQUIRE(ram);
    return std::move(*ram);
  };
  const GuestRam first = clone();
  const GuestRam second = clone();
  CHECK(first.backing() == Backing::PrivateFile);
  CHECK(word(first, kLow) == kOne);
  word(first, kHigh) = 0xA1A2'A3A4'A5A6'A7A8;
  CHECK(word(first, kHigh) == 0xA1A2'A3A4'A5A6'A7A8);
  CHECK(word(second, kHigh) == kTwo);
  CHECK(word_in_file(open_rw(path).get(), kHigh) == kTwo);
}

TEST_CASE("huge pages that the host does not have are an error, not a SIGBUS later") {
  // One more than are free, so that it fails on every host.
  std::uint64_t free_pages = 0;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string name; meminfo >> name;) {
    if (name == "HugePages_Free:") meminfo >> free_pages;
  }
  api::MemoryConfig config = config_of((free_pages + 1) * 2 * kMiB);
  config.hugepages = true;
  const std::vector<RamRange> layout{{devices::GuestAddress(0), config.size, 0}};
  refused(GuestRam::allocate(config, layout), ErrorCode::BadRequest,
          {std::to_string(config.size), "huge pages", "vm.nr_hugepages"});
}

TEST_CASE("moving RAM moves the mapping, which is undone once") {
  GuestRam ram = make(config_of());
  word(ram, kLow) = kOne;
  const auto* host = ram.regions()[0].host;
  const GuestRam moved = std::move(ram);
  CHECK(moved.regions()[0].host == host);
  CHECK(word(moved, kLow) == kOne);
}
