#include "daemon/snapshot/memory_copy.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>

#include <doctest/doctest.h>

#include "base/file.h"
#include "tests/unit/snapshot/ram_fixture.h"

using namespace vmmd;
using namespace vmmd::snapshot;
using memory::Backing;
using test::kMebi;
using test::kRamSize;
using test::Ram;

namespace {

constexpr std::uint64_t kPage = memory::kPageSize;
constexpr std::uint64_t kLastPage = kRamSize - kPage;
// Chunk 0 in parts, chunk 1 not at all, chunk 2 whole, chunk 3 (second range) in parts, the short chunk 4 at
// its end.
constexpr std::uint64_t kZeroedPage = 40 * kPage;  // touched, but zero

std::vector<std::uint64_t> pages() {
  std::vector<std::uint64_t> pages{0, 7 * kPage, 8 * kPage, 2 * kMebi - kPage};
  for (std::uint64_t at = 4 * kMebi; at < 6 * kMebi; at += kPage) pages.push_back(at);
  pages.push_back(6 * kMebi);
  pages.push_back(7 * kMebi + 3 * kPage);
  pages.push_back(kLastPage);
  return pages;
}

void fill(Ram& ram, unsigned seed = 1) {
  for (const std::uint64_t page : pages()) ram.fill_page(page, seed);
  ram.fill_page(kZeroedPage, seed);
  std::fill_n(ram.at(kZeroedPage), kPage, std::byte{0});
}

struct Copy {
  UniqueFd file = test::empty_file();
  MemoryDigests digests{kRamSize};
  Job job{"snapshot-1", "snapshot"};
  std::uint64_t written = 0;

  explicit Copy(Ram& ram) {
    const auto bytes = copy_memory_out(ram.get(), file.get(), digests, job);
    if (!bytes) FAIL(bytes.error().to_string());
    written = *bytes;
  }
};

Status copy_in(int fd, Ram& ram, const MemoryDigests* digests) {
  Job job("restore-1", "restore");
  return copy_memory_in(fd, ram.get(), digests, job);
}

bool damaged_at(const Status& status, std::string_view where) {
  if (status) return false;
  CHECK(status.error().code == ErrorCode::BadRequest);
  CAPTURE(status.error().to_string());
  return status.error().to_string().find("damaged") != std::string::npos &&
         status.error().to_string().find(where) != std::string::npos;
}

void punch(int fd, std::uint64_t offset, std::uint64_t length) {
  REQUIRE(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                      static_cast<off_t>(length)) == 0);
}

void flip(int fd, std::uint64_t offset) {
  std::byte byte{};
  REQUIRE(read_exact_at(fd, {&byte, 1}, offset, "file"));
  byte ^= std::byte{0x10};
  REQUIRE(write_all_at(fd, {&byte, 1}, offset, "file"));
}

constexpr Backing kAll[] = {Backing::Anonymous, Backing::SharedMemory, Backing::File, Backing::PrivateFile};

}  // namespace

TEST_CASE("memory.bin is RAM byte for byte, in the layout's order, whatever backs it") {
  for (const Backing backing : kAll) {
    CAPTURE(static_cast<int>(backing));
    Ram ram(backing);
    fill(ram);
    const Copy copy(ram);
    CHECK((test::read_all(copy.file.get(), kRamSize) == ram.content()));
    CHECK(file_size(copy.file.get(), "memory.bin").value() == kRamSize);
  }
}

TEST_CASE("copy-on-write RAM is saved with what its file holds below the changes") {
  std::string base(kRamSize, '\0');
  for (std::uint64_t at = 3 * kMebi; at < 5 * kMebi; ++at) base[at] = static_cast<char>(at * 7 | 1);
  Ram ram(Backing::PrivateFile, base);
  fill(ram);
  const Copy copy(ram);
  const std::string saved = test::read_all(copy.file.get(), kRamSize);
  CHECK((saved == ram.content()));
  CHECK((saved.substr(3 * kMebi, kMebi) == base.substr(3 * kMebi, kMebi)));
}

TEST_CASE("the digests are those of a simple computation over memory.bin") {
  for (const Backing backing : kAll) {
    CAPTURE(static_cast<int>(backing));
    Ram ram(backing);
    fill(ram);
    const Copy copy(ram);
    const std::string content = ram.content();
    for (std::uint64_t i = 0; i < copy.digests.chunk_count(); ++i) {
      CAPTURE(i);
      CHECK((copy.digests.at(i) ==
             Digest::of(std::string_view(content).substr(i * kChunkSize, copy.digests.chunk_length(i)))));
    }
    CHECK(copy.digests.chunk_count() == 5);
    CHECK(copy.digests.is_zero(1));
    CHECK_FALSE(copy.digests.is_zero(4));
  }
}

TEST_CASE("pages of zeros stay holes, touched or not") {
  Ram ram(Backing::Anonymous);
  fill(ram);
  const Copy copy(ram);
  CHECK(test::is_hole(copy.file.get(), kZeroedPage));
  CHECK(test::is_hole(copy.file.get(), 2 * kMebi));
  CHECK(test::is_hole(copy.file.get(), 9 * kPage));
  CHECK_FALSE(test::is_hole(copy.file.get(), 7 * kPage));
  CHECK(copy.written == pages().size() * kPage);
}

TEST_CASE("saving RAM that is touched but zero writes nothing and leaves the digests at zero") {
  Ram ram(Backing::Anonymous);
  std::fill_n(ram.at(0), 2 * kPage, std::byte{0});
  const Copy copy(ram);
  CHECK(copy.written == 0);
  CHECK(test::is_hole(copy.file.get(), 0));
  CHECK(copy.digests.is_zero(0));
}

TEST_CASE("saving does not fault in what nobody touched") {
  Ram ram(Backing::Anonymous);
  fill(ram);
  const std::size_t before = ram.resident();
  REQUIRE(before == pages().size() + 1);
  const Copy copy(ram);
  CHECK(ram.resident() == before);
}

TEST_CASE("progress counts the touched bytes, to the end") {
  Ram ram(Backing::Anonymous);
  fill(ram);
  const Copy copy(ram);
  CHECK(copy.job.total() == (pages().size() + 1) * kPage);
  CHECK(copy.job.done() == copy.job.total());
}

TEST_CASE("what was saved comes back byte for byte into RAM of any backing") {
  Ram source(Backing::Anonymous);
  fill(source);
  const Copy copy(source);
  const std::string saved = source.content();
  for (const Backing backing : {Backing::Anonymous, Backing::SharedMemory, Backing::File}) {
    CAPTURE(static_cast<int>(backing));
    Ram ram(backing);
    REQUIRE(copy_in(copy.file.get(), ram, &copy.digests));
    CHECK((ram.content() == saved));
  }
}

TEST_CASE("restoring leaves holes untouched where there is nothing to compare") {
  Ram source(Backing::Anonymous);
  fill(source);
  const Copy copy(source);
  Ram ram(Backing::Anonymous);
  REQUIRE(copy_in(copy.file.get(), ram, nullptr));
  CHECK(ram.resident() == pages().size());
}

TEST_CASE("RAM in a file that held something else is the snapshot's alone after a restore") {
  Ram source(Backing::Anonymous);
  fill(source);
  const Copy copy(source);
  Ram ram(Backing::File);
  ram.fill_page(2 * kMebi + 5 * kPage, 99);  // in a chunk that the snapshot has as a hole
  ram.fill_page(20 * kPage, 99);             // in a hole of a chunk with data
  REQUIRE(copy_in(copy.file.get(), ram, nullptr));
  CHECK((ram.content() == source.content()));
}

TEST_CASE("a cancelled job ends copying in both directions with an error that names it") {
  Ram ram(Backing::Anonymous);
  fill(ram);
  const Copy copy(ram);
  Job job("snapshot-9", "snapshot");
  job.cancel();
  const UniqueFd file = test::empty_file();
  MemoryDigests digests(kRamSize);
  const auto out = copy_memory_out(ram.get(), file.get(), digests, job);
  REQUIRE_FALSE(out);
  CHECK(out.error().to_string() == "snapshot-9 was cancelled");
  Ram fresh(Backing::Anonymous);
  const Status in = copy_memory_in(copy.file.get(), fresh.get(), &copy.digests, job);
  REQUIRE_FALSE(in);
  CHECK(in.error().to_string() == "snapshot-9 was cancelled");
  CHECK(fresh.resident() == 0);
}

TEST_CASE("one flipped bit is found and named by its guest address") {
  Ram source(Backing::Anonymous);
  fill(source);
  const Copy copy(source);
  SUBCASE("below 4 GiB") {
    flip(copy.file.get(), 4 * kMebi + 12345);
    Ram ram(Backing::Anonymous);
    CHECK(damaged_at(copy_in(copy.file.get(), ram, &copy.digests), "address 0x400000 "));
  }
  SUBCASE("in the short chunk above 4 GiB") {
    flip(copy.file.get(), kLastPage + 17);
    Ram ram(Backing::Anonymous);
    CHECK(damaged_at(copy_in(copy.file.get(), ram, &copy.digests), "address 0x100200000 "));
  }
}

TEST_CASE("a hole where a whole chunk was data is found") {
  Ram source(Backing::Anonymous);
  fill(source);
  const Copy copy(source);
  punch(copy.file.get(), 4 * kMebi, 2 * kMebi);
  Ram ram(Backing::Anonymous);
  CHECK(damaged_at(copy_in(copy.file.get(), ram, &copy.digests), "hole at guest address 0x400000 "));
}

TEST_CASE("a hole where one page of a chunk was data is found") {
  Ram source(Backing::Anonymous);
  fill(source);
  const Copy copy(source);
  punch(copy.file.get(), 7 * kPage, kPage);
  Ram ram(Backing::Anonymous);
  CHECK(damaged_at(copy_in(copy.file.get(), ram, &copy.digests), "address 0x0 "));
}

TEST_CASE("data where a chunk was a hole is found") {
  Ram source(Backing::Anonymous);
  fill(source);
  const Copy copy(source);
  flip(copy.file.get(), 3 * kMebi);
  Ram ram(Backing::Anonymous);
  CHECK(damaged_at(copy_in(copy.file.get(), ram, &copy.digests), "address 0x200000 "));
}

TEST_CASE("zeros written over a hole are the same memory, and no damage") {
  Ram source(Backing::Anonymous);
  fill(source);
  const Copy copy(source);
  const std::string zeros(kPage, '\0');
  REQUIRE(write_all_at(copy.file.get(), std::as_bytes(std::span(zeros)), 3 * kMebi, "memory.bin"));
  Ram ram(Backing::Anonymous);
  REQUIRE(copy_in(copy.file.get(), ram, &copy.digests));
  CHECK((ram.content() == source.content()));
}

TEST_CASE("an error of the file ends the copy") {
  Ram ram(Backing::Anonymous);
  fill(ram);
  auto read_only = open_file("/proc/self/exe", O_RDONLY);
  REQUIRE(read_only);
  MemoryDigests digests(kRamSize);
  Job job("snapshot-1", "snapshot");
  const auto out = copy_memory_out(ram.get(), read_only->get(), digests, job);
  REQUIRE_FALSE(out);
  CHECK(out.error().to_string().find("memory.bin") != std::string::npos);
}
