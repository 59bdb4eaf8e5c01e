#include "tests/unit/snapshot/ram_fixture.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include <doctest/doctest.h>

#include "base/file.h"
#include "tests/unit/support/residency.h"

namespace vmmd::snapshot::test {

namespace {

std::vector<memory::RamRange> layout() {
  return {{devices::GuestAddress(0), kLowSize, 0},
          {devices::GuestAddress(memory::kHighRamStart), kRamSize - kLowSize, kLowSize}};
}

}  // namespace

Ram::Ram(memory::Backing backing, const std::string& base) : path_(dir_ / "ram") {
  api::MemoryConfig config;
  config.size = kRamSize;
  config.thp = false;
  if (backing == memory::Backing::PrivateFile) {
    auto file = open_file(path_, O_RDWR | O_CREAT, 0600);
    REQUIRE(file);
    REQUIRE(::ftruncate(file->get(), kRamSize) == 0);
    // Page by page, so that zeros stay holes.
    for (std::size_t at = 0; at < base.size(); at += memory::kPageSize) {
      const std::string page = base.substr(at, memory::kPageSize);
      if (page.find_first_not_of('\0') == std::string::npos) continue;
      REQUIRE(write_all_at(file->get(), std::as_bytes(std::span(page)), at, path_));
    }
    auto ram = memory::GuestRam::copy_on_write(std::move(*file), layout(), config);
    REQUIRE(ram);
    ram_ = std::move(*ram);
    return;
  }
  config.shared = backing == memory::Backing::SharedMemory;
  if (backing == memory::Backing::File) config.file = path_;
  auto ram = memory::GuestRam::allocate(config, layout());
  if (!ram) FAIL(ram.error().to_string());
  ram_ = std::move(*ram);
}

std::byte* Ram::at(std::uint64_t flat) const {
  const auto regions = ram_->regions();
  return flat < kLowSize ? regions[0].host + flat : regions[1].host + (flat - kLowSize);
}

void Ram::fill_page(std::uint64_t flat, unsigned seed) {
  for (std::uint64_t i = 0; i < memory::kPageSize; ++i) {
    at(flat)[i] = static_cast<std::byte>(((flat + i) * 2654435761U + seed * 977U) >> 11 | 1U);
  }
}

std::string Ram::content() const {
  std::string all;
  all.reserve(kRamSize);
  for (const auto& region : ram_->regions()) {
    all.append(reinterpret_cast<const char*>(region.host), region.size);
  }
  return all;
}

std::size_t Ram::resident() const {
  std::size_t pages = 0;
  for (const auto& region : ram_->regions()) pages += testing::resident_pages(region.host, region.size);
  return pages;
}

UniqueFd empty_file() {
  UniqueFd fd(::memfd_create("vmmd-test", MFD_CLOEXEC));
  REQUIRE(fd);
  return fd;
}

std::string read_all(int fd, std::uint64_t length) {
  std::string content(length, '?');
  REQUIRE(read_exact_at(fd, std::as_writable_bytes(std::span(content)), 0, "file"));
  return content;
}

bool is_hole(int fd, std::uint64_t offset) {
  return ::lseek(fd, static_cast<off_t>(offset), SEEK_HOLE) == static_cast<off_t>(offset);
}

bool covers(const std::vector<Extent>& extents, std::uint64_t offset) {
  return std::any_of(extents.begin(), extents.end(), [offset](const Extent& extent) {
    return offset >= extent.offset && offset < extent.offset + extent.length;
  });
}

}  // namespace vmmd::snapshot::test
