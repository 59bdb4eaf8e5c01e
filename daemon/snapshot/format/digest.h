#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace vmmd::snapshot {

/// XXH3-128 with seed 0 in its canonical (big-endian) form, as `xxh128sum` prints it. It finds accidents; it
/// is no defence against somebody who writes the digests too.
struct Digest {
  static constexpr std::size_t kSize = 16;
  std::array<std::byte, kSize> bytes = {};

  static Digest of(std::span<const std::byte> data);
  static Digest of(std::string_view data) { return of(std::as_bytes(std::span(data))); }

  /// From a field of the manifest; nothing unless it has 16 bytes.
  static std::optional<Digest> from_bytes(std::string_view field);

  /// 16 raw bytes, for a field of the manifest.
  [[nodiscard]] std::string to_bytes() const;
  /// 32 hexadecimal digits, for people.
  [[nodiscard]] std::string to_hex() const;

  bool operator==(const Digest&) const = default;
};

/// A digest of data that comes in pieces. Not thread safe; reset() makes it new again without allocating.
class Hasher {
 public:
  Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;
  ~Hasher();

  void reset();
  void add(std::span<const std::byte> data);
  /// As add() of `count` zero bytes: for pages that are not there.
  void add_zeros(std::uint64_t count);
  [[nodiscard]] Digest finish() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Of the first `size` bytes of a file; `name` is for messages. `cancelled` is asked every MiB; then an
/// error.
Result<Digest> digest_of_file(int fd, std::uint64_t size, const std::string& name,
                              const std::function<bool()>& cancelled = {});

}  // namespace vmmd::snapshot
