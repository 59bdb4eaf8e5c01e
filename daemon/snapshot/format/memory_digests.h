#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "daemon/snapshot/format/digest.h"
#include "daemon/snapshot/format/layout.h"

namespace vmmd::snapshot {

/// One digest per 2 MiB chunk of memory.bin (the last chunk may be shorter): the content of memory.digests.
///
/// A new table says that all of memory is zero, so whoever writes memory.bin sets only the chunks in which it
/// wrote something. Different chunks may be set from different threads at the same time.
class MemoryDigests {
 public:
  /// A table for `memory_size` bytes (1 to kMemoryLimit) of zeros.
  explicit MemoryDigests(std::uint64_t memory_size);

  /// Reads memory.digests, whose own digest is `expected`. Refuses a length that does not fit `memory_size`,
  /// and holes: what is allocated is never more than twice what the file really holds, whatever it claims.
  static Result<MemoryDigests> read(int fd, std::uint64_t memory_size, const Digest& expected);

  [[nodiscard]] std::uint64_t memory_size() const { return memory_size_; }
  [[nodiscard]] std::uint64_t chunk_count() const { return digests_.size(); }
  /// Bytes in chunk `index`: kChunkSize, or less in the last one.
  [[nodiscard]] std::uint64_t chunk_length(std::uint64_t index) const;

  /// Digests a whole chunk: `chunk` has chunk_length(index) bytes.
  void add(std::uint64_t index, std::span<const std::byte> chunk) { set(index, Digest::of(chunk)); }
  void set(std::uint64_t index, const Digest& digest) { digests_[index] = digest; }
  [[nodiscard]] const Digest& at(std::uint64_t index) const { return digests_[index]; }
  /// Does `chunk`, chunk_length(index) bytes, have the recorded digest? For restores that read it anyway.
  [[nodiscard]] bool matches(std::uint64_t index, std::span<const std::byte> chunk) const {
    return digests_[index] == Digest::of(chunk);
  }
  /// Is chunk `index` recorded as all zeros? Needs no data.
  [[nodiscard]] bool is_zero(std::uint64_t index) const;

  /// The content of memory.digests: 16 bytes per chunk, in the order of chunks.
  [[nodiscard]] std::string serialize() const;

 private:
  struct Unfilled {};
  MemoryDigests(std::uint64_t memory_size, Unfilled);

  std::uint64_t memory_size_;
  Digest zero_chunk_;  // of kChunkSize zeros
  Digest zero_tail_;   // of the last chunk's length of zeros
  std::vector<Digest> digests_;
};

}  // namespace vmmd::snapshot
