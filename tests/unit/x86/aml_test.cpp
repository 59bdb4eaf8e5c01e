#include "daemon/x86/acpi/aml.h"

#include <numeric>

#include <doctest/doctest.h>

using namespace vmmd::x86;
using aml::Bytes;

namespace {

/// Decodes a PkgLength as ACPI 6.4, 20.2.4 says: {value, bytes it takes}.
std::pair<std::size_t, std::size_t> decode_length(const Bytes& bytes) {
  const std::size_t more = bytes[0] >> 6;
  if (more == 0) return {bytes[0] & 0x3FU, 1};
  std::size_t value = bytes[0] & 0xFU;
  for (std::size_t i = 1; i <= more; ++i) value |= std::size_t{bytes[i]} << (4 + 8 * (i - 1));
  return {value, more + 1};
}

}  // namespace

TEST_CASE("a package length counts itself and takes the fewest bytes, at every boundary") {
  struct Case {
    std::size_t body;
    std::size_t bytes;
  };
  // A length of n bytes reaches to 63, 4095, 1048575, 268435455, itself included.
  for (const Case c : {Case{0, 1}, Case{1, 1}, Case{62, 1}, Case{63, 2}, Case{64, 2}, Case{4093, 2},
                       Case{4094, 3}, Case{4095, 3}, Case{0xFFFFC, 3}, Case{0xFFFFD, 4}, Case{0x100000, 4}}) {
    CAPTURE(c.body);
    Bytes body(c.body);
    std::iota(body.begin(), body.end(), std::uint8_t{1});
    const Bytes out = aml::with_package_length(body);
    const auto [value, bytes] = decode_length(out);
    CHECK(bytes == c.bytes);
    CHECK(value == out.size());
    CHECK(out.size() == c.body + c.bytes);
    CHECK(Bytes(out.begin() + static_cast<std::ptrdiff_t>(bytes), out.end()) == body);
  }
}

TEST_CASE("a two-byte package length keeps its low four bits in the first byte") {
  const Bytes out = aml::with_package_length(Bytes(0x123 - 2));
  CHECK(out[0] == 0x43);
  CHECK(out[1] == 0x12);
}

TEST_CASE("integers take the fewest bytes, least significant first") {
  CHECK(aml::integer(0) == Bytes{0x00});
  CHECK(aml::integer(1) == Bytes{0x01});
  CHECK(aml::integer(2) == Bytes{0x0A, 0x02});
  CHECK(aml::integer(0xFF) == Bytes{0x0A, 0xFF});
  CHECK(aml::integer(0x100) == Bytes{0x0B, 0x00, 0x01});
  CHECK(aml::integer(0x1234'5678) == Bytes{0x0C, 0x78, 0x56, 0x34, 0x12});
  CHECK(aml::integer(0xFFFF'FFFF) == Bytes{0x0C, 0xFF, 0xFF, 0xFF, 0xFF});
  CHECK(aml::integer(0x0102'0304'0506'0708) == Bytes{0x0E, 8, 7, 6, 5, 4, 3, 2, 1});
}

TEST_CASE("paths are padded and prefixed by the number of their segments") {
  CHECK(aml::path("RTC") == Bytes{'R', 'T', 'C', '_'});
  CHECK(aml::path("\\_SB") == Bytes{'\\', '_', 'S', 'B', '_'});
  CHECK(aml::path("^A") == Bytes{'^', 'A', '_', '_', '_'});
  CHECK(aml::path("\\_SB.PCI0") == Bytes{'\\', 0x2E, '_', 'S', 'B', '_', 'P', 'C', 'I', '0'});
  CHECK(aml::path("A.BC.DEF") == Bytes{0x2F, 3, 'A', '_', '_', '_', 'B', 'C', '_', '_', 'D', 'E', 'F', '_'});
}

TEST_CASE("an EISA id is the compressed integer of the specification's example") {
  CHECK(aml::eisa_id("PNP0C0C") == Bytes{0x0C, 0x41, 0xD0, 0x0C, 0x0C});
  CHECK(aml::eisa_id("PNP0A08") == Bytes{0x0C, 0x41, 0xD0, 0x0A, 0x08});
}

TEST_CASE("a field's width is encoded without counting itself") {
  const auto width = [](unsigned bits) {
    const Bytes field = aml::field("R", aml::Access::DWord, {{.name = "F", .bits = bits}});
    // 5B 81 PkgLength "R___" flags "F___" width
    return Bytes(field.begin() + 3 + 4 + 1 + 4, field.end());
  };
  CHECK(width(32) == Bytes{32});
  CHECK(width(63) == Bytes{63});
  CHECK(width(64) == Bytes{0x40, 0x04});
}

TEST_CASE("a resource template is a buffer that ends with an end tag") {
  CHECK(aml::resources({aml::irq(4)}) == Bytes{0x11, 0x08, 0x0A, 0x05, 0x22, 0x10, 0x00, 0x79, 0x00});
}

TEST_CASE("a window's length covers both ends") {
  const Bytes window = aml::memory_window64(0x1'8000'0000, 0x3FFF'FFFF'FFFF);
  REQUIRE(window.size() == 46);
  CHECK(Bytes(window.end() - 8, window.end()) == Bytes{0x00, 0x00, 0x00, 0x80, 0xFE, 0x3F, 0x00, 0x00});
}

TEST_CASE("statements encode operands in order") {
  CHECK(aml::store(aml::path("ESEL"), aml::local(0)) == Bytes{0x70, 'E', 'S', 'E', 'L', 0x60});
  CHECK(aml::equal(aml::arg(1), aml::integer(5)) == Bytes{0x93, 0x69, 0x0A, 0x05});
  CHECK(aml::if_then(aml::bit_and(aml::local(3), aml::integer(1)), {aml::give_back(aml::integer(0))}) ==
        Bytes{0xA0, 0x07, 0x7B, 0x63, 0x01, 0x00, 0xA4, 0x00});
  CHECK(aml::notify("GED", 0x80) == Bytes{0x86, 'G', 'E', 'D', '_', 0x0A, 0x80});
}
