#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

namespace vmmd::x86::aml {

// A builder of AML, the byte code of ACPI's DSDT (ACPI 6.4, chapters 20 and 6.4 for resources).
//
// Every function returns the encoding of one term, and terms nest as ASL does:
//   device("COM1", {name("_HID", eisa_id("PNP0501")), name("_CRS", resources({io(0x3F8, 8)}))})
//
// The input is our own tables', never the guest's or a user's: a name that ACPI does not allow is a bug of
// the caller, and is caught by the test that compiles the tables with iasl.
using Bytes = std::vector<std::uint8_t>;
using Terms = std::initializer_list<Bytes>;

/// The terms one after the other.
[[nodiscard]] Bytes concat(Terms terms);
[[nodiscard]] Bytes concat(std::span<const Bytes> terms);

/// `body` behind its PkgLength (20.2.4), which counts itself: 1 byte up to 63, 2 up to 4095, 3 up to 1 MiB,
/// 4 up to 256 MiB. Exposed for its test.
[[nodiscard]] Bytes with_package_length(const Bytes& body);

/// `\_SB.PCI0`, `^X`, `COM1`: segments of up to four characters, padded with underscores (20.2.2).
[[nodiscard]] Bytes path(std::string_view path);

// Data.
[[nodiscard]] Bytes integer(std::uint64_t value);   // in the fewest bytes
[[nodiscard]] Bytes string(std::string_view text);  // ASCII
[[nodiscard]] Bytes eisa_id(std::string_view id);   // "PNP0501" as an integer
[[nodiscard]] Bytes buffer(std::span<const std::uint8_t> data);
[[nodiscard]] Bytes package(std::span<const Bytes> elements);  // at most 255 elements
[[nodiscard]] Bytes package(Terms elements);

// Named objects.
[[nodiscard]] Bytes name(std::string_view path, const Bytes& value);
[[nodiscard]] Bytes scope(std::string_view path, std::span<const Bytes> body);
[[nodiscard]] Bytes scope(std::string_view path, Terms body);
[[nodiscard]] Bytes device(std::string_view path, std::span<const Bytes> body);
[[nodiscard]] Bytes device(std::string_view path, Terms body);
enum class Serialized : bool { No, Yes };
[[nodiscard]] Bytes method(std::string_view path, unsigned arguments, Serialized serialized, Terms body);

enum class Space : std::uint8_t { SystemMemory = 0, SystemIo = 1 };
[[nodiscard]] Bytes operation_region(std::string_view path, Space space, std::uint64_t start,
                                     std::uint64_t length);
enum class Access : std::uint8_t { Any = 0, Byte = 1, Word = 2, DWord = 3, QWord = 4 };
struct FieldUnit {
  std::string_view name;  // exactly one segment
  unsigned bits = 0;
};
/// NoLock, Preserve.
[[nodiscard]] Bytes field(std::string_view region, Access access, std::initializer_list<FieldUnit> units);

// Statements and expressions.
[[nodiscard]] Bytes local(unsigned n);  // Local0..Local7
[[nodiscard]] Bytes arg(unsigned n);    // Arg0..Arg6
[[nodiscard]] Bytes store(const Bytes& value, const Bytes& target);
[[nodiscard]] Bytes bit_and(const Bytes& a, const Bytes& b);  // And (a, b), result not stored
[[nodiscard]] Bytes equal(const Bytes& a, const Bytes& b);    // LEqual
[[nodiscard]] Bytes if_then(const Bytes& condition, Terms body);
[[nodiscard]] Bytes notify(std::string_view object, std::uint64_t value);
[[nodiscard]] Bytes give_back(const Bytes& value);  // Return

// Resource descriptors (6.4) and the template that holds them.
[[nodiscard]] Bytes resources(std::span<const Bytes> descriptors);
[[nodiscard]] Bytes resources(Terms descriptors);
[[nodiscard]] Bytes io(std::uint16_t port, std::uint8_t length);  // fixed, 16-bit decode
[[nodiscard]] Bytes irq(unsigned line);                           // IRQNoFlags, 0..15
enum class Trigger : bool { Level, Edge };
[[nodiscard]] Bytes interrupt(std::uint32_t gsi, Trigger trigger);  // extended: consumer, high, exclusive
[[nodiscard]] Bytes memory32_fixed(std::uint32_t start, std::uint32_t length);
[[nodiscard]] Bytes bus_range(std::uint16_t first, std::uint16_t last);
// Windows that a host bridge passes on: both ends inclusive.
[[nodiscard]] Bytes io_window(std::uint16_t first, std::uint16_t last);
[[nodiscard]] Bytes memory_window32(std::uint32_t first, std::uint32_t last);
[[nodiscard]] Bytes memory_window64(std::uint64_t first, std::uint64_t last);

}  // namespace vmmd::x86::aml
