#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "daemon/memory/guest_ram.h"

namespace vmmd::snapshot {

/// A range of flat memory (see memory::RamRange::file_offset), whole pages.
struct Extent {
  std::uint64_t offset = 0;  // bytes
  std::uint64_t length = 0;  // bytes
};

/// The pages of RAM that may hold something other than zero, ascending and not touching one another. Looking
/// does not fault anything in: page tables (pagemap) for private memory, the file's own holes for the rest.
/// Costs about 2 ms per GiB of RAM for private memory, microseconds for files.
Result<std::vector<Extent>> touched_extents(const memory::GuestRam& ram);

/// The parts of `file` up to `length` that are not holes; all of it where the filesystem does not know.
Result<std::vector<Extent>> data_extents(int fd, std::uint64_t length);

/// Bytes of all extents.
[[nodiscard]] std::uint64_t total_length(const std::vector<Extent>& extents);

}  // namespace vmmd::snapshot
