#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "daemon/snapshot/format/open.h"

namespace vmmd::snapshot {

/// A range of memory.bin whose content is not what was written.
struct DamagedRange {
  std::uint64_t file_offset = 0;
  std::uint64_t guest_address = 0;
  std::uint64_t length = 0;  // bytes, whole chunks
  bool operator==(const DamagedRange&) const = default;
};

struct VerifyReport {
  std::uint64_t bytes_total = 0;
  std::uint64_t bytes_read = 0;  // the rest are holes
  bool cancelled = false;
  std::vector<DamagedRange> damaged;  // ascending; neighbours merged, but never across ranges of RAM
  std::vector<std::string> damaged_layers = {};  // of disks; for who asks for those too
};

/// Called about once per 4 MiB, from one thread at a time but not always the same; false cancels.
using VerifyProgress = std::function<bool(std::uint64_t bytes_done, std::uint64_t bytes_total)>;

/// Reads memory.bin and compares every chunk with its digest, `threads` at a time (0: as many as CPUs, at
/// most 8). Holes are not read. An error when the digests themselves are missing or damaged; chunks that
/// cannot be read count as damaged.
Result<VerifyReport> verify_memory(const OpenSnapshot& snapshot, const VerifyProgress& progress = {},
                                   unsigned threads = 0);

/// The layers of disks (see is_layer_name()) whose content is not what was written, or cannot be read. None
/// once `cancelled` says so, which is asked every MiB.
[[nodiscard]] std::vector<std::string> damaged_layers(const OpenSnapshot& snapshot,
                                                      const std::function<bool()>& cancelled = {});

/// Computes the digests of memory.bin: for record_memory_digests(). Nothing when cancelled.
Result<std::optional<MemoryDigests>> digest_memory(const OpenSnapshot& snapshot,
                                                   const VerifyProgress& progress = {}, unsigned threads = 0);

}  // namespace vmmd::snapshot
