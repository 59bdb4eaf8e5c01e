#include "daemon/snapshot/format/digest.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "base/file.h"
#include "daemon/snapshot/format/memory_digests.h"
#include "daemon/snapshot/format/xxh3.h"
#include "tests/unit/snapshot/fixture.h"

using namespace vmmd;
using namespace vmmd::snapshot;
using namespace vmmd::snapshot::test;

namespace {

/// memory.digests with this content.
class TableFile {
 public:
  explicit TableFile(const std::string& content) : fd_(::memfd_create("table", MFD_CLOEXEC)) {
    REQUIRE(fd_);
    REQUIRE(write_all_at(fd_.get(), std::as_bytes(std::span(content)), 0, "table"));
    digest_ = Digest::of(content);
  }
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] Result<MemoryDigests> read(std::uint64_t memory_size) const {
    return MemoryDigests::read(fd_.get(), memory_size, digest_);
  }

 private:
  UniqueFd fd_;
  Digest digest_;
};

}  // namespace

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
  const TableFile file(digests.serialize());
  const auto read = file.read(3 * kChunkSize);
  REQUIRE(read);
  CHECK(read->at(1) == Digest::of("vmmd"));
  CHECK(read->is_zero(2));
  CHECK_FALSE(read->is_zero(1));
}

TEST_CASE("a table of another memory size is refused, by its length and before it is read") {
  const TableFile file(MemoryDigests(3 * kChunkSize).serialize());
  CHECK(says(file.read(4 * kChunkSize).error(), "has 48 bytes; 8388608 bytes of memory need 64"));
  CHECK(says(file.read(2 * kChunkSize).error(), "has 48 bytes"));
  CHECK_FALSE(TableFile("").read(0));
}

TEST_CASE("a table that is all hole is given up at its beginning") {
  TableFile file("");
  const std::uint64_t length = kMemoryLimit / kChunkSize * Digest::kSize;  // what 64 TiB of memory need
  REQUIRE(::ftruncate(file.fd(), static_cast<off_t>(length)) == 0);
  rusage before = {};
  rusage after = {};
  REQUIRE(::getrusage(RUSAGE_SELF, &before) == 0);
  const auto read = MemoryDigests::read(file.fd(), kMemoryLimit, Digest::of(""));
  REQUIRE(::getrusage(RUSAGE_SELF, &after) == 0);
  CHECK(says(read.error(), "digests are missing in it"));
  CHECK(after.ru_maxrss - before.ru_maxrss < 64 << 10);  // KiB; the table would be 512 MiB
}

TEST_CASE("a table with another digest is refused") {
  const TableFile file(MemoryDigests(3 * kChunkSize).serialize());
  const auto read = MemoryDigests::read(file.fd(), 3 * kChunkSize, Digest::of("another"));
  CHECK(says(read.error(), "its digest differs"));
}
