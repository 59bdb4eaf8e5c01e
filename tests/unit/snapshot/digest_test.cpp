#include "daemon/snapshot/format/digest.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "daemon/snapshot/format/memory_digests.h"
#include "daemon/snapshot/format/xxh3.h"

using namespace vmmd::snapshot;

// The constants are what `xxh128sum` prints for the same bytes.
TEST_CASE("a digest is what xxh128sum prints") {
  CHECK(Digest::of("").to_hex() == "99aa06d3014798d86001c324468d497f");
  CHECK(Digest::of("vmmd").to_hex() == "e4c0dfe5cf905196c7bb4deaa0bf67dd");
}

TEST_CASE("data in pieces has the digest of the whole") {
  std::string data;
  for (int i = 0; i < 100'000; ++i) data += static_cast<char>(i * 7 + i / 256);
  Hasher hasher;
  for (std::size_t at = 0; at < data.size(); at += 777) {
    hasher.add(std::as_bytes(std::span(data)).subspan(at, std::min<std::size_t>(777, data.size() - at)));
  }
  CHECK(hasher.finish() == Digest::of(data));
}

TEST_CASE("both implementations give the same digests, whole and in pieces") {
  if (!__builtin_cpu_supports("avx2")) return;
  const xxh3::Functions slow = xxh3::baseline();
  const xxh3::Functions fast = xxh3::avx2();
  struct alignas(xxh3::kAlignment) State {
    std::byte bytes[xxh3::kStateSize];
  };
  const auto state = std::make_unique<State>();
  std::string data;
  for (int i = 0; i < 5000; ++i) data += static_cast<char>(i * 11 + i / 256);
  // XXH3 has other code for 0-16, 17-128, 129-240 and more bytes, and blocks of 1024.
  for (std::size_t size = 0; size < data.size(); size += size < 300 ? 1 : 61) {
    Digest expected;
    Digest whole;
    Digest pieces;
    slow.whole(data.data(), size, expected.bytes.data());
    fast.whole(data.data(), size, whole.bytes.data());
    fast.reset(state.get());
    fast.update(state.get(), data.data(), size / 3);
    fast.update(state.get(), data.data() + size / 3, size - size / 3);
    fast.finish(state.get(), pieces.bytes.data());
    CHECK(whole == expected);
    CHECK(pieces == expected);
  }
}

TEST_CASE("zeros need no data") {
  Hasher hasher;
  hasher.add_zeros(kChunkSize);
  CHECK(hasher.finish().to_hex() == "7b3e6abe1456fd0094e26d8e04364852");
}

TEST_CASE("a hasher that is reset has forgotten") {
  Hasher hasher;
  hasher.add_zeros(3);
  hasher.reset();
  CHECK(hasher.finish() == Digest::of(""));
}

TEST_CASE("a field of another length than 16 is no digest") {
  CHECK_FALSE(Digest::from_bytes(std::string(15, 'x')));
  CHECK_FALSE(Digest::from_bytes(std::string(17, 'x')));
  const Digest digest = Digest::of("vmmd");
  CHECK(Digest::from_bytes(digest.to_bytes()) == digest);
}

TEST_CASE("a new table says that memory is zero, the short last chunk too") {
  const MemoryDigests digests(2 * kChunkSize + 4096);
  REQUIRE(digests.chunk_count() == 3);
  CHECK(digests.chunk_length(2) == 4096);
  CHECK(digests.is_zero(0));
  CHECK(digests.is_zero(2));
  CHECK(digests.at(0).to_hex() == "7b3e6abe1456fd0094e26d8e04364852");
  CHECK(digests.at(2) == Digest::of(std::string(4096, '\0')));
}

TEST_CASE("a chunk of zeros that was written counts as zero") {
  MemoryDigests digests(kChunkSize);
  digests.add(0, std::vector<std::byte>(kChunkSize));
  CHECK(digests.is_zero(0));
}

TEST_CASE("a table is read as it was written") {
  MemoryDigests digests(3 * kChunkSize);
  digests.set(1, Digest::of("vmmd"));
  const auto read = MemoryDigests::parse(digests.serialize(), 3 * kChunkSize);
  REQUIRE(read);
  CHECK(read->at(1) == Digest::of("vmmd"));
  CHECK(read->is_zero(2));
  CHECK_FALSE(read->is_zero(1));
}

TEST_CASE("a table of another memory size is refused") {
  const std::string table = MemoryDigests(3 * kChunkSize).serialize();
  CHECK_FALSE(MemoryDigests::parse(table, 4 * kChunkSize));
  CHECK_FALSE(MemoryDigests::parse(table, 2 * kChunkSize));
  CHECK_FALSE(MemoryDigests::parse("", 0));
}
