#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace vmmd::devices {

/// Which sectors of a disk a layer holds, a bit for each. Sectors of 512 bytes are the unit of a guest's
/// writes, so that a layer never has to fill up a block from the one below.
///
/// The bits are address space that costs memory only where they are set: a page of them for 16 MiB of disk.
/// Not locked.
class SectorMap {
 public:
  static constexpr std::size_t kPage = 4096;  // bytes of the map
  static constexpr std::uint64_t kSectorsPerPage = kPage * 8;

  /// TooLarge if the address space does not hold it.
  static Result<SectorMap> create(std::uint64_t sectors);
  SectorMap(SectorMap&& other) noexcept;
  SectorMap& operator=(SectorMap&&) = delete;
  SectorMap(const SectorMap&) = delete;
  SectorMap& operator=(const SectorMap&) = delete;
  ~SectorMap();

  [[nodiscard]] std::uint64_t sectors() const { return sectors_; }
  /// [first, first + count) is within the disk.
  void set(std::uint64_t first, std::uint64_t count);

  struct Run {
    bool set = false;
    std::uint64_t count = 0;  // sectors
  };
  /// The longest run of equal bits from `first` on, within [first, first + limit), which is within the disk;
  /// `limit` above 0.
  [[nodiscard]] Run run(std::uint64_t first, std::uint64_t limit) const;

  /// The map as bytes, for those that keep it in a file: copies of the pages that changed since they were
  /// last taken.
  struct Page {
    std::uint64_t offset = 0;  // a multiple of kPage
    std::array<std::byte, kPage> bytes{};
  };
  [[nodiscard]] std::vector<Page> take_changed();
  /// For pages that could not be written: they have changed still.
  void give_back(std::span<const Page> pages);
  /// Takes a page as it was written, from a file: bits beyond the disk are dropped. `offset` is a multiple of
  /// kPage within the map.
  void load_page(std::uint64_t offset, std::span<const std::byte, kPage> bytes);
  [[nodiscard]] std::uint64_t size_bytes() const;  // a multiple of kPage

 private:
  SectorMap(std::uint64_t* words, std::uint64_t sectors);
  [[nodiscard]] std::size_t pages() const { return touched_.size(); }

  std::uint64_t* words_;
  std::uint64_t sectors_;
  std::vector<bool> touched_;  // pages of the map that have bits
  std::vector<bool> changed_;
};

}  // namespace vmmd::devices
