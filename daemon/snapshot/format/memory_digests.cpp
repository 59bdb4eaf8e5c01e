#include "daemon/snapshot/format/memory_digests.h"

#include <algorithm>

#include "base/file.h"

namespace vmmd::snapshot {
namespace {

constexpr std::size_t kPiece = 4096;  // digests that are read at once

Digest of_zeros(std::uint64_t length) {
  Hasher hasher;
  hasher.add_zeros(length);
  return hasher.finish();
}

std::uint64_t chunks_of(std::uint64_t memory_size) {
  return (memory_size + kChunkSize - 1) / kChunkSize;
}

}  // namespace

MemoryDigests::MemoryDigests(std::uint64_t memory_size, Unfilled /*tag*/)
    : memory_size_(memory_size),
      zero_chunk_(of_zeros(kChunkSize)),
      zero_tail_(of_zeros(chunk_length(chunks_of(memory_size) - 1))) {}

MemoryDigests::MemoryDigests(std::uint64_t memory_size) : MemoryDigests(memory_size, Unfilled()) {
  digests_.assign(chunks_of(memory_size), zero_chunk_);
  digests_.back() = zero_tail_;
}

Result<MemoryDigests> MemoryDigests::read(int fd, std::uint64_t memory_size, const Digest& expected) {
  const std::string name(kDigestsName);
  if (memory_size == 0 || memory_size > kMemoryLimit) {
    return fail(ErrorCode::BadRequest, "digests of {} bytes of memory are not possible", memory_size);
  }
  const std::uint64_t wanted = chunks_of(memory_size) * Digest::kSize;
  VMMD_ASSIGN(const std::uint64_t length, file_size(fd, name));
  if (length != wanted) {
    return fail(ErrorCode::BadRequest, "{} has {} bytes; {} bytes of memory need {}", name, length,
                memory_size, wanted);
  }
  MemoryDigests table(memory_size, Unfilled());
  Hasher hasher;
  std::vector<Digest> piece(kPiece);
  for (std::uint64_t at = 0; at < length;) {
    piece.resize(std::min<std::uint64_t>(kPiece, (length - at) / Digest::kSize));
    const auto bytes = std::as_writable_bytes(std::span(piece));
    VMMD_TRY(read_exact_at(fd, bytes, at, name));
    // No chunk has a digest of zeros, but a hole, which costs whoever makes it nothing, is all of them.
    if (std::find(piece.begin(), piece.end(), Digest()) != piece.end())
      return fail(ErrorCode::BadRequest, "{} is damaged: digests are missing in it", name);
    hasher.add(bytes);
    table.digests_.insert(table.digests_.end(), piece.begin(), piece.end());
    at += bytes.size();
  }
  if (hasher.finish() != expected) {
    return fail(ErrorCode::BadRequest, "{} is damaged, or of another snapshot: its digest differs", name);
  }
  return table;
}

std::uint64_t MemoryDigests::chunk_length(std::uint64_t index) const {
  const std::uint64_t rest = memory_size_ - index * kChunkSize;
  return rest < kChunkSize ? rest : kChunkSize;
}

bool MemoryDigests::is_zero(std::uint64_t index) const {
  return digests_[index] == (index + 1 == digests_.size() ? zero_tail_ : zero_chunk_);
}

std::string MemoryDigests::serialize() const {
  std::string table;
  table.reserve(digests_.size() * Digest::kSize);
  for (const Digest& digest : digests_) table += digest.to_bytes();
  return table;
}

}  // namespace vmmd::snapshot
