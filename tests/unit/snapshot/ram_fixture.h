#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "daemon/memory/guest_ram.h"
#include "daemon/snapshot/touched.h"
#include "tests/unit/support/temp_dir.h"

namespace vmmd::snapshot::test {

inline constexpr std::uint64_t kMebi = 1 << 20;
// Two ranges; the first ends with a chunk, the last chunk is a partial one.
inline constexpr std::uint64_t kLowSize = 6 * kMebi;
inline constexpr std::uint64_t kRamSize = 9 * kMebi;

/// Small guest RAM of any backing, written by flat offset.
class Ram {
 public:
  /// For PrivateFile, `base` is what the file holds: empty means a file of holes.
  explicit Ram(memory::Backing backing, const std::string& base = {});

  [[nodiscard]] memory::GuestRam& get() { return *ram_; }
  [[nodiscard]] std::byte* at(std::uint64_t flat) const;
  /// Fills a page with bytes that depend on offset and seed; none is zero.
  void fill_page(std::uint64_t flat, unsigned seed = 1);
  /// All of it, in order: reading faults it in.
  [[nodiscard]] std::string content() const;
  /// Pages that are in memory.
  [[nodiscard]] std::size_t resident() const;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  testing::TempDir dir_;
  std::string path_;
  std::optional<memory::GuestRam> ram_;
};

/// An empty file without a name.
[[nodiscard]] UniqueFd empty_file();
[[nodiscard]] std::string read_all(int fd, std::uint64_t length);
/// Is the page at `offset` a hole of the file?
[[nodiscard]] bool is_hole(int fd, std::uint64_t offset);
[[nodiscard]] bool covers(const std::vector<Extent>& extents, std::uint64_t offset);

}  // namespace vmmd::snapshot::test
