#pragma once

#include "daemon/memory/guest_ram.h"
#include "devices/memory_reclaim.h"

namespace vmmd::memory {

/// Gives pages of guest RAM back to the host, each backing its own way:
/// - anonymous: dropped; they read as zeros.
/// - memfd and `memory.file`: a hole is punched; they read as zeros. Never into a file with a second hard
///   link, which may be a snapshot's memory.bin: that is a Conflict, and nothing changes.
/// - a file mapped copy-on-write: our copies are dropped, which uncovers what the *snapshot* holds. That is
///   this guest's own old content, and nobody but this guest sees it; a later snapshot has it again instead
///   of holes. (Zeros would need a mapping of its own for each piece, of which a process has 65530.)
class RamReclaim final : public devices::MemoryReclaim {
 public:
  /// `ram` outlives it and is not moved.
  explicit RamReclaim(const GuestRam& ram) : ram_(ram) {}
  [[nodiscard]] std::uint64_t granularity() const override;
  Result<std::uint64_t> discard(devices::GuestAddress address, std::uint64_t length) override;

 private:
  Status drop(std::byte* host, std::uint64_t file_offset, std::uint64_t length) const;
  const GuestRam& ram_;
};

}  // namespace vmmd::memory
