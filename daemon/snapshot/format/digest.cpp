#include "daemon/snapshot/format/digest.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace vmmd::snapshot {
namespace {

Digest canonical(XXH128_hash_t hash) {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, hash);
  Digest digest;
  static_assert(sizeof bytes.digest == Digest::kSize);
  std::memcpy(digest.bytes.data(), bytes.digest, Digest::kSize);
  return digest;
}

}  // namespace

Digest Digest::of(std::span<const std::byte> data) {
  return canonical(XXH3_128bits(data.data(), data.size()));
}

std::optional<Digest> Digest::from_bytes(std::string_view field) {
  if (field.size() != kSize) return std::nullopt;
  Digest digest;
  std::memcpy(digest.bytes.data(), field.data(), kSize);
  return digest;
}

std::string Digest::to_bytes() const {
  std::string field(kSize, '\0');
  std::memcpy(field.data(), bytes.data(), kSize);
  return field;
}

std::string Digest::to_hex() const {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : bytes) {
    text += kDigits[std::to_integer<std::size_t>(byte >> 4)];
    text += kDigits[std::to_integer<std::size_t>(byte & std::byte{0x0F})];
  }
  return text;
}

void Hasher::Free::operator()(XXH3_state_s* state) const {
  XXH3_freeState(state);
}

Hasher::Hasher() : state_(XXH3_createState()) {
  if (!state_) throw std::bad_alloc();
  reset();
}
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;
Hasher::~Hasher() = default;

void Hasher::reset() {
  XXH3_128bits_reset(state_.get());
}

void Hasher::add(std::span<const std::byte> data) {
  XXH3_128bits_update(state_.get(), data.data(), data.size());
}

void Hasher::add_zeros(std::uint64_t count) {
  // Small enough to stay in the first-level cache.
  static constexpr std::array<std::byte, 16384> kZeros = {};
  while (count > 0) {
    const std::size_t step = std::min<std::uint64_t>(count, kZeros.size());
    add(std::span(kZeros).first(step));
    count -= step;
  }
}

Digest Hasher::finish() const {
  return canonical(XXH3_128bits_digest(state_.get()));
}

}  // namespace vmmd::snapshot
