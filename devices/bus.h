#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"

namespace vmmd::devices {

/// Access widths a region takes, as a bit set: kWidth1 | kWidth4. An access of another width reads as all
/// ones and writes nothing.
using Widths = unsigned;
inline constexpr Widths kWidth1 = 1;
inline constexpr Widths kWidth2 = 2;
inline constexpr Widths kWidth4 = 4;
inline constexpr Widths kWidth8 = 8;
inline constexpr Widths kWidthAny = kWidth1 | kWidth2 | kWidth4 | kWidth8;

/// What a device offers to a bus. It sees offsets into its region, never addresses. Called on vCPU threads,
/// by several at once: a device locks itself. A guest's mistake is answered, never thrown and never logged.
class BusDevice {
 public:
  virtual ~BusDevice() = default;
  /// `width` is 1, 2, 4 or 8 bytes and allowed by the region; the access lies inside the region.
  virtual std::uint64_t read(std::uint64_t offset, unsigned width) = 0;
  virtual void write(std::uint64_t offset, unsigned width, std::uint64_t value) = 0;
};

/// A range of a bus that belongs to one device.
struct BusRegion {
  std::string name;  // for errors: "serial0"
  std::uint64_t base = 0;
  std::uint64_t length = 0;
  Widths widths = kWidthAny;
  BusDevice* device = nullptr;
};

/// Port or MMIO address space: owns addresses, refuses overlaps, decides what a bad access returns (reads of
/// holes are all ones, writes to them are dropped).
///
/// read() and write() wait for nobody: they follow an immutable table that map() and unmap() replace as a
/// whole (a PCI BAR moves while other vCPUs run). Readers keep the table they started with.
class Bus {
 public:
  /// `limit`: the first address beyond the bus (0x10000 for ports).
  explicit Bus(std::string name, std::uint64_t limit = ~std::uint64_t{0});
  ~Bus();
  Bus(const Bus&) = delete;
  Bus& operator=(const Bus&) = delete;

  /// Conflict if it overlaps (both names in the message); BadRequest if empty or beyond the bus.
  Status map(BusRegion region);
  /// Takes the region at exactly `base` away. NotFound if there is none.
  Status unmap(std::uint64_t base);

  [[nodiscard]] std::uint64_t read(std::uint64_t address, unsigned width) const;
  void write(std::uint64_t address, unsigned width, std::uint64_t value) const;

  /// For tests and vm.info: a copy of the regions, ascending.
  [[nodiscard]] std::vector<BusRegion> regions() const;

 private:
  struct Table;
  [[nodiscard]] static const BusRegion* find(const Table& table, std::uint64_t address, unsigned width);

  std::string name_;
  std::uint64_t limit_;
  std::mutex changing_;  // one map() or unmap() at a time
  std::atomic<std::shared_ptr<const Table>> table_;
};

/// All ones in the low `width` bytes: what an x86 bus reads where nobody answers.
[[nodiscard]] constexpr std::uint64_t all_ones(unsigned width) {
  return width >= 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << (8 * width)) - 1;
}

}  // namespace vmmd::devices
