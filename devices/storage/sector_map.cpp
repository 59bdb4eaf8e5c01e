#include "devices/storage/sector_map.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

namespace vmmd::devices {

namespace {

constexpr std::uint64_t kBits = 64;  // of a word

std::uint64_t page_count(std::uint64_t sectors) {
  return sectors / SectorMap::kSectorsPerPage + (sectors % SectorMap::kSectorsPerPage != 0 ? 1 : 0);
}

}  // namespace

Result<SectorMap> SectorMap::create(std::uint64_t sectors) {
  // 2 PiB of disk: a sparse image is as large as it likes, and what we keep for each page is memory.
  constexpr std::uint64_t kMost = std::uint64_t{1} << 42;
  const std::uint64_t bytes = page_count(std::min(sectors, kMost)) * kPage;
  void* words = MAP_FAILED;
  if (sectors != 0 && sectors < kMost) {
    words =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  if (words == MAP_FAILED)
    return fail(ErrorCode::TooLarge, "no room for the map of an overlay of {} sectors", sectors);
  return SectorMap(static_cast<std::uint64_t*>(words), sectors);
}

SectorMap::SectorMap(std::uint64_t* words, std::uint64_t sectors)
    : words_(words), sectors_(sectors), touched_(page_count(sectors)), changed_(page_count(sectors)) {}

SectorMap::SectorMap(SectorMap&& other) noexcept
    : words_(std::exchange(other.words_, nullptr)),
      sectors_(other.sectors_),
      touched_(std::move(other.touched_)),
      changed_(std::move(other.changed_)) {}

SectorMap::~SectorMap() {
  if (words_ != nullptr) ::munmap(words_, size_bytes());
}

std::uint64_t SectorMap::size_bytes() const {
  return page_count(sectors_) * kPage;
}

void SectorMap::set(std::uint64_t first, std::uint64_t count) {
  for (std::uint64_t at = first; at < first + count;) {
    const std::uint64_t bit = at % kBits;
    const std::uint64_t take = std::min(kBits - bit, first + count - at);
    const std::uint64_t mask = (take == kBits ? ~std::uint64_t{0} : (std::uint64_t{1} << take) - 1) << bit;
    words_[at / kBits] |= mask;
    touched_[at / kSectorsPerPage] = changed_[at / kSectorsPerPage] = true;
    at += take;
  }
}

SectorMap::Run SectorMap::run(std::uint64_t first, std::uint64_t limit) const {
  const std::uint64_t end = first + limit;
  const bool value = touched_[first / kSectorsPerPage] && (words_[first / kBits] >> first % kBits & 1) != 0;
  std::uint64_t at = first;
  while (at < end) {
    if (!touched_[at / kSectorsPerPage]) {
      if (value) break;
      at = (at / kSectorsPerPage + 1) * kSectorsPerPage;
      continue;
    }
    // How many bits of this word, from `at` on, are as the first.
    const std::uint64_t word = (value ? ~words_[at / kBits] : words_[at / kBits]) >> at % kBits;
    const auto same =
        std::min<std::uint64_t>(static_cast<std::uint64_t>(std::countr_zero(word)), kBits - at % kBits);
    at += same;
    if (at % kBits != 0 || same == 0) break;
  }
  return {value, std::min(at, end) - first};
}

std::vector<SectorMap::Page> SectorMap::take_changed() {
  std::vector<Page> taken;
  for (std::size_t page = 0; page < pages(); ++page) {
    if (!changed_[page]) continue;
    Page& copy = taken.emplace_back();
    copy.offset = page * kPage;
    std::memcpy(copy.bytes.data(), reinterpret_cast<const std::byte*>(words_) + copy.offset, kPage);
    changed_[page] = false;
  }
  return taken;
}

void SectorMap::give_back(std::span<const Page> pages) {
  for (const Page& page : pages) changed_[page.offset / kPage] = true;
}

void SectorMap::load_page(std::uint64_t offset, std::span<const std::byte, kPage> bytes) {
  const std::uint64_t page = offset / kPage;
  std::memcpy(reinterpret_cast<std::byte*>(words_) + page * kPage, bytes.data(), kPage);
  touched_[page] = true;
  if (page + 1 < pages()) return;
  for (std::uint64_t at = sectors_; at < (page + 1) * kSectorsPerPage;) {
    const std::uint64_t bit = at % kBits;
    words_[at / kBits] &= (std::uint64_t{1} << bit) - 1;
    at += kBits - bit;
  }
}

}  // namespace vmmd::devices
