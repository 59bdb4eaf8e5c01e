#pragma once

#include <cstdint>
#include <functional>

#include "base/result.h"
#include "daemon/snapshot/format/digest.h"
#include "daemon/snapshot/format/verify.h"

namespace vmmd::snapshot {

/// What was found in one chunk of memory.bin.
struct ChunkFinding {
  enum class Kind : std::uint8_t { Data, Hole, Unreadable };
  Kind kind = Kind::Data;
  Digest digest;  // of Data only
};

struct WalkResult {
  std::uint64_t bytes_read = 0;
  bool cancelled = false;
};

/// Reads memory.bin (`fd`, `size` bytes) chunk by chunk on several threads. `visit` is called for every chunk
/// once, in any order and from any of the threads; calls for different chunks may overlap.
Result<WalkResult> walk_chunks(int fd, std::uint64_t size, const VerifyProgress& progress, unsigned threads,
                               const std::function<void(std::uint64_t index, const ChunkFinding&)>& visit);

}  // namespace vmmd::snapshot
