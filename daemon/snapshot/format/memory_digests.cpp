#include "daemon/snapshot/format/memory_digests.h"

#include <cstring>

namespace vmmd::snapshot {
namespace {

Digest of_zeros(std::uint64_t length) {
  Hasher hasher;
  hasher.add_zeros(length);
  return hasher.finish();
}

}  // namespace

MemoryDigests::MemoryDigests(std::uint64_t memory_size) : memory_size_(memory_size) {
  const std::uint64_t count = (memory_size + kChunkSize - 1) / kChunkSize;
  zero_chunk_ = of_zeros(kChunkSize);
  digests_.assign(count, zero_chunk_);
  zero_tail_ = of_zeros(chunk_length(count - 1));
  digests_.back() = zero_tail_;
}

Result<MemoryDigests> MemoryDigests::parse(std::string_view table, std::uint64_t memory_size) {
  if (memory_size == 0 || memory_size > kMemoryLimit) {
    return fail(ErrorCode::BadRequest, "digests of {} bytes of memory are not possible", memory_size);
  }
  const std::uint64_t count = (memory_size + kChunkSize - 1) / kChunkSize;
  if (table.size() != count * Digest::kSize) {
    return fail(ErrorCode::BadRequest, "{} has {} bytes; {} bytes of memory need {}", kDigestsName,
                table.size(), memory_size, count * Digest::kSize);
  }
  MemoryDigests digests(memory_size);
  for (std::uint64_t i = 0; i < count; ++i) {
    std::memcpy(digests.digests_[i].bytes.data(), table.data() + i * Digest::kSize, Digest::kSize);
  }
  return digests;
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
