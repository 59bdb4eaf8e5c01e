#include "daemon/x86/acpi/aml.h"
#include "daemon/x86/acpi/little_endian.h"

namespace vmmd::x86::aml {
namespace {

// Resource descriptor tags, ACPI 6.4 section 6.4.
constexpr std::uint8_t kIrqNoFlags = 0x22;
constexpr std::uint8_t kIoPort = 0x47;
constexpr std::uint8_t kEnd = 0x79;
constexpr std::uint8_t kMemory32Fixed = 0x86;
constexpr std::uint8_t kDWordSpace = 0x87;
constexpr std::uint8_t kWordSpace = 0x88;
constexpr std::uint8_t kExtendedInterrupt = 0x89;
constexpr std::uint8_t kQWordSpace = 0x8A;

enum class SpaceType : std::uint8_t { Memory = 0, Io = 1, Bus = 2 };

/// Address space descriptor (6.4.3.5) of a bridge: producer, positive decode, both ends fixed, not
/// translated.
template <class T>
Bytes address_space(std::uint8_t tag, SpaceType type, std::uint8_t type_flags, T first, T last) {
  constexpr std::uint8_t kFixedEnds = 0x0C;
  Bytes out{tag};
  put_le(out, static_cast<std::uint16_t>(3 + 5 * sizeof(T)));
  out.push_back(static_cast<std::uint8_t>(type));
  out.push_back(kFixedEnds);
  out.push_back(type_flags);
  put_le(out, T{0});  // granularity
  put_le(out, first);
  put_le(out, last);
  put_le(out, T{0});  // translation
  put_le(out, static_cast<T>(last - first + 1));
  return out;
}

constexpr std::uint8_t kEntireRange = 3;  // ISA and non-ISA ports
constexpr std::uint8_t kReadWrite = 1;    // not cacheable, not prefetchable: any BAR may go there

}  // namespace

Bytes resources(std::span<const Bytes> descriptors) {
  Bytes content = concat(descriptors);
  content.push_back(kEnd);
  content.push_back(0);  // checksum 0: not checked
  return buffer(content);
}

Bytes resources(Terms descriptors) {
  return resources(std::span<const Bytes>(descriptors.begin(), descriptors.size()));
}

Bytes io(std::uint16_t port, std::uint8_t length) {
  Bytes out{kIoPort, 1};
  put_le(out, port);  // lowest and
  put_le(out, port);  // highest base
  out.push_back(1);   // alignment
  out.push_back(length);
  return out;
}

Bytes irq(unsigned line) {
  Bytes out{kIrqNoFlags};
  put_le(out, static_cast<std::uint16_t>(1U << line));
  return out;
}

Bytes interrupt(std::uint32_t gsi, Trigger trigger) {
  Bytes out{kExtendedInterrupt};
  put_le(out, std::uint16_t{6});
  out.push_back(trigger == Trigger::Edge ? 0x03 : 0x01);  // bit 0 consumer, bit 1 edge; high, exclusive
  out.push_back(1);                                       // one interrupt
  put_le(out, gsi);
  return out;
}

Bytes memory32_fixed(std::uint32_t start, std::uint32_t length) {
  Bytes out{kMemory32Fixed};
  put_le(out, std::uint16_t{9});
  out.push_back(kReadWrite);
  put_le(out, start);
  put_le(out, length);
  return out;
}

Bytes bus_range(std::uint16_t first, std::uint16_t last) {
  return address_space(kWordSpace, SpaceType::Bus, 0, first, last);
}

Bytes io_window(std::uint16_t first, std::uint16_t last) {
  return address_space(kWordSpace, SpaceType::Io, kEntireRange, first, last);
}

Bytes memory_window32(std::uint32_t first, std::uint32_t last) {
  return address_space(kDWordSpace, SpaceType::Memory, kReadWrite, first, last);
}

Bytes memory_window64(std::uint64_t first, std::uint64_t last) {
  return address_space(kQWordSpace, SpaceType::Memory, kReadWrite, first, last);
}

}  // namespace vmmd::x86::aml
