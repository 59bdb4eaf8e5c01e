#include "daemon/snapshot/touched.h"

#include <unistd.h>

#include <doctest/doctest.h>

#include "base/file.h"
#include "tests/unit/snapshot/ram_fixture.h"

using namespace vmmd;
using namespace vmmd::snapshot;
using memory::Backing;
using test::Ram;

namespace {

constexpr std::uint64_t kPage = memory::kPageSize;

using Pairs = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

Pairs touched(Ram& ram) {
  const auto extents = touched_extents(ram.get());
  REQUIRE(extents);
  Pairs pairs;
  for (const Extent& extent : *extents) pairs.emplace_back(extent.offset, extent.length);
  return pairs;
}

constexpr std::uint64_t kLastPage = test::kRamSize - kPage;

}  // namespace

TEST_CASE("RAM that nobody touched has no extents, whatever backs it") {
  for (const Backing backing :
       {Backing::Anonymous, Backing::SharedMemory, Backing::File, Backing::PrivateFile}) {
    CAPTURE(static_cast<int>(backing));
    Ram ram(backing);
    CHECK(touched(ram).empty());
  }
}

TEST_CASE("looking for touched pages touches none") {
  Ram ram(Backing::Anonymous);
  ram.fill_page(kPage);
  REQUIRE(ram.resident() == 1);
  CHECK(touched(ram).size() == 1);
  CHECK(ram.resident() == 1);
}

TEST_CASE("the touched pages of anonymous RAM are found exactly, neighbours as one extent") {
  Ram ram(Backing::Anonymous);
  for (const std::uint64_t page : {3U, 4U, 5U, 9U}) ram.fill_page(page * kPage);
  ram.fill_page(kLastPage);
  CHECK(touched(ram) == Pairs{{3 * kPage, 3 * kPage}, {9 * kPage, kPage}, {kLastPage, kPage}});
}

TEST_CASE("extents are flat: the end of one range joins the start of the next") {
  Ram ram(Backing::Anonymous);
  ram.fill_page(test::kLowSize - kPage);
  ram.fill_page(test::kLowSize);
  CHECK(touched(ram) == Pairs{{test::kLowSize - kPage, 2 * kPage}});
}

TEST_CASE("touched pages of shared RAM and of a file are found by their data") {
  for (const Backing backing : {Backing::SharedMemory, Backing::File}) {
    CAPTURE(static_cast<int>(backing));
    Ram ram(backing);
    ram.fill_page(2 * kPage);
    ram.fill_page(kLastPage);
    const auto extents = touched_extents(ram.get());
    REQUIRE(extents);
    CHECK(test::covers(*extents, 2 * kPage));
    CHECK(test::covers(*extents, kLastPage));
    // Filesystems may round to blocks of theirs, but a far hole stays one.
    CHECK_FALSE(test::covers(*extents, 4 * test::kMebi));
    CHECK(total_length(*extents) < test::kMebi);
  }
}

TEST_CASE("copy-on-write RAM has the file's data and the pages that were changed since") {
  std::string base(test::kRamSize, '\0');
  base.replace(8 * kPage, 4, "base");
  base.replace(9 * kPage, 4, "more");
  Ram ram(Backing::PrivateFile, base);
  ram.fill_page(9 * kPage);   // over data
  ram.fill_page(10 * kPage);  // next to data
  ram.fill_page(kLastPage);   // over a hole
  CHECK(touched(ram) == Pairs{{8 * kPage, 3 * kPage}, {kLastPage, kPage}});
}

TEST_CASE("a hole of the file that copy-on-write RAM only read is not touched") {
  Ram ram(Backing::PrivateFile);
  REQUIRE(*reinterpret_cast<volatile std::byte*>(ram.at(5 * kPage)) == std::byte{0});
  // tmpfs gives a hole that is read through a mapping a page of its own; other filesystems leave it one.
  const auto in_file = data_extents(ram.get().fd(), ram.get().size());
  REQUIRE(in_file);
  CHECK(total_length(*touched_extents(ram.get())) == total_length(*in_file));
}

TEST_CASE("data extents are whole pages inside the length that was asked for") {
  const UniqueFd file = test::empty_file();
  const char text[] = "data";
  REQUIRE(write_all_at(file.get(), std::as_bytes(std::span(text)), 3 * kPage + 100, "file"));
  REQUIRE(write_all_at(file.get(), std::as_bytes(std::span(text)), 20 * kPage - 2, "file"));
  REQUIRE(::ftruncate(file.get(), 64 * kPage) == 0);
  const auto extents = data_extents(file.get(), 20 * kPage);
  REQUIRE(extents);
  REQUIRE(extents->size() == 2);
  CHECK((*extents)[0].offset == 3 * kPage);
  CHECK((*extents)[0].length == kPage);
  CHECK((*extents)[1].offset == 19 * kPage);
  CHECK((*extents)[1].length == kPage);
}

TEST_CASE("a file that ends early has no data behind its end") {
  const UniqueFd file = test::empty_file();
  REQUIRE(::ftruncate(file.get(), kPage) == 0);
  const auto extents = data_extents(file.get(), 8 * kPage);
  REQUIRE(extents);
  CHECK(extents->empty());
}

TEST_CASE("the length of extents is their sum") {
  CHECK(total_length({}) == 0);
  CHECK(total_length({{0, 4096}, {0x1'0000'0000, 0x2'0000'0000}}) == 0x2'0000'1000);
}
