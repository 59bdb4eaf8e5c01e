#include "daemon/snapshot/format/digest.h"

#ifdef __clang__    // the header is C's; GCC takes its _Bool for bool
#define _Bool bool  // NOLINT(bugprone-reserved-identifier)
#endif
#include <sys/platform/x86.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/file.h"
#include "daemon/snapshot/format/xxh3.h"

namespace vmmd::snapshot {
namespace {

const xxh3::Functions& functions() {
  // From what libc found out at its start. __builtin_cpu_supports() would run a dozen CPUID instructions
  // before main; in a virtual machine each of them is an exit to its hypervisor, 0.05 ms in all.
  static const xxh3::Functions chosen = CPU_FEATURE_ACTIVE(AVX2) ? xxh3::avx2() : xxh3::baseline();
  return chosen;
}

}  // namespace

struct alignas(xxh3::kAlignment) Hasher::State {
  std::byte bytes[xxh3::kStateSize];
};

Digest Digest::of(std::span<const std::byte> data) {
  Digest digest;
  functions().whole(data.data(), data.size(), digest.bytes.data());
  return digest;
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

Hasher::Hasher() : state_(std::make_unique<State>()) {
  reset();
}
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;
Hasher::~Hasher() = default;

void Hasher::reset() {
  functions().reset(state_.get());
}

void Hasher::add(std::span<const std::byte> data) {
  functions().update(state_.get(), data.data(), data.size());
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
  Digest digest;
  functions().finish(state_.get(), digest.bytes.data());
  return digest;
}

Result<Digest> digest_of_file(int fd, std::uint64_t size, const std::string& name,
                              const std::function<bool()>& cancelled) {
  Hasher hasher;
  std::vector<std::byte> buffer(std::size_t{1} << 20);
  for (std::uint64_t at = 0; at < size;) {
    if (cancelled && cancelled()) return fail(ErrorCode::Conflict, "reading {} was cancelled", name);
    const std::span<std::byte> piece(buffer.data(), std::min<std::uint64_t>(buffer.size(), size - at));
    VMMD_TRY(read_exact_at(fd, piece, at, name));
    hasher.add(piece);
    at += piece.size();
  }
  return hasher.finish();
}

}  // namespace vmmd::snapshot
