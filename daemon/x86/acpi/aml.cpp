#include "daemon/x86/acpi/aml.h"

#include <algorithm>

#include "daemon/x86/acpi/little_endian.h"

namespace vmmd::x86::aml {
namespace {

// Opcodes, ACPI 6.4 table 20.5.
constexpr std::uint8_t kZero = 0x00;
constexpr std::uint8_t kOne = 0x01;
constexpr std::uint8_t kName = 0x08;
constexpr std::uint8_t kByte = 0x0A;
constexpr std::uint8_t kWord = 0x0B;
constexpr std::uint8_t kDWord = 0x0C;
constexpr std::uint8_t kString = 0x0D;
constexpr std::uint8_t kQWord = 0x0E;
constexpr std::uint8_t kScope = 0x10;
constexpr std::uint8_t kBuffer = 0x11;
constexpr std::uint8_t kPackage = 0x12;
constexpr std::uint8_t kMethod = 0x14;
constexpr std::uint8_t kDualName = 0x2E;
constexpr std::uint8_t kMultiName = 0x2F;
constexpr std::uint8_t kExtended = 0x5B;
constexpr std::uint8_t kExtendedRegion = 0x80;
constexpr std::uint8_t kExtendedField = 0x81;
constexpr std::uint8_t kExtendedDevice = 0x82;
constexpr std::uint8_t kLocal0 = 0x60;
constexpr std::uint8_t kArg0 = 0x68;
constexpr std::uint8_t kStore = 0x70;
constexpr std::uint8_t kAnd = 0x7B;
constexpr std::uint8_t kNotify = 0x86;
constexpr std::uint8_t kEqual = 0x93;
constexpr std::uint8_t kIf = 0xA0;
constexpr std::uint8_t kReturn = 0xA4;

void append(Bytes& to, const Bytes& from) {
  to.insert(to.end(), from.begin(), from.end());
}

/// Reserved first: GCC 12 sees an overflow in growing a vector of one byte.
Bytes prefixed(std::initializer_list<std::uint8_t> head, const Bytes& tail) {
  Bytes out;
  out.reserve(head.size() + tail.size());
  out.insert(out.end(), head);
  append(out, tail);
  return out;
}

/// A PkgLength of exactly `bytes` bytes: the first holds the count of the others and, alone, six bits; with
/// others, four.
Bytes encode_length(std::size_t value, unsigned bytes) {
  if (bytes == 1) return {static_cast<std::uint8_t>(value)};
  Bytes out{static_cast<std::uint8_t>(((bytes - 1) << 6) | (value & 0xF))};
  value >>= 4;
  for (unsigned i = 1; i < bytes; ++i, value >>= 8) out.push_back(static_cast<std::uint8_t>(value));
  return out;
}

constexpr std::size_t length_limit(unsigned bytes) {
  return bytes == 1 ? 63 : (std::size_t{1} << (4 + 8 * (bytes - 1))) - 1;
}

/// The opcode, then the PkgLength of everything that follows it.
Bytes packaged(std::initializer_list<std::uint8_t> opcode, const Bytes& content) {
  return prefixed(opcode, with_package_length(content));
}

Bytes named(std::string_view object, std::span<const Bytes> body) {
  Bytes content = path(object);
  append(content, concat(body));
  return content;
}

Bytes operation(std::uint8_t opcode, Terms operands) {
  return prefixed({opcode}, concat(operands));
}

std::span<const Bytes> as_span(Terms terms) {
  return {terms.begin(), terms.size()};
}

}  // namespace

Bytes concat(std::span<const Bytes> terms) {
  Bytes out;
  for (const Bytes& term : terms) append(out, term);
  return out;
}

Bytes concat(Terms terms) {
  return concat(as_span(terms));
}

Bytes with_package_length(const Bytes& body) {
  unsigned bytes = 1;
  while (bytes < 4 && body.size() + bytes > length_limit(bytes)) ++bytes;
  Bytes out = encode_length(body.size() + bytes, bytes);
  append(out, body);
  return out;
}

Bytes path(std::string_view text) {
  Bytes out;
  while (!text.empty() && (text.front() == '\\' || text.front() == '^')) {
    out.push_back(static_cast<std::uint8_t>(text.front()));
    text.remove_prefix(1);
  }
  const auto segments = static_cast<std::size_t>(std::count(text.begin(), text.end(), '.')) + 1;
  if (segments == 2) out.push_back(kDualName);
  if (segments > 2) {
    out.push_back(kMultiName);
    out.push_back(static_cast<std::uint8_t>(segments));
  }
  for (std::size_t i = 0; i < segments; ++i) {
    const std::string_view segment = text.substr(0, text.find('.'));
    for (std::size_t c = 0; c < 4; ++c) {
      out.push_back(static_cast<std::uint8_t>(c < segment.size() ? segment[c] : '_'));
    }
    text.remove_prefix(std::min(text.size(), segment.size() + 1));
  }
  return out;
}

Bytes integer(std::uint64_t value) {
  if (value == 0) return {kZero};
  if (value == 1) return {kOne};
  Bytes out;
  if (value <= 0xFF) {
    out.push_back(kByte);
    put_le(out, static_cast<std::uint8_t>(value));
  } else if (value <= 0xFFFF) {
    out.push_back(kWord);
    put_le(out, static_cast<std::uint16_t>(value));
  } else if (value <= 0xFFFF'FFFF) {
    out.push_back(kDWord);
    put_le(out, static_cast<std::uint32_t>(value));
  } else {
    out.push_back(kQWord);
    put_le(out, value);
  }
  return out;
}

Bytes string(std::string_view text) {
  Bytes content(text.begin(), text.end());
  content.push_back(0);
  return prefixed({kString}, content);
}

Bytes eisa_id(std::string_view id) {
  // Three letters of five bits and four hexadecimal digits, big-endian (ACPI 6.4, 19.3.4 EISAID).
  const auto letter = [&](std::size_t i) { return static_cast<std::uint32_t>(id[i] - 0x40) & 0x1F; };
  const auto digit = [&](std::size_t i) {
    return static_cast<std::uint32_t>(id[i] <= '9' ? id[i] - '0' : id[i] - 'A' + 10) & 0xF;
  };
  const std::uint32_t maker = letter(0) << 10 | letter(1) << 5 | letter(2);
  const std::uint32_t product = digit(3) << 12 | digit(4) << 8 | digit(5) << 4 | digit(6);
  return integer(__builtin_bswap32(maker << 16 | product));
}

Bytes buffer(std::span<const std::uint8_t> data) {
  Bytes content = integer(data.size());
  content.insert(content.end(), data.begin(), data.end());
  return packaged({kBuffer}, content);
}

Bytes package(std::span<const Bytes> elements) {
  return packaged({kPackage}, prefixed({static_cast<std::uint8_t>(elements.size())}, concat(elements)));
}

Bytes package(Terms elements) {
  return package(as_span(elements));
}

Bytes name(std::string_view object, const Bytes& value) {
  return prefixed({kName}, concat({path(object), value}));
}

Bytes scope(std::string_view object, std::span<const Bytes> body) {
  return packaged({kScope}, named(object, body));
}

Bytes scope(std::string_view object, Terms body) {
  return scope(object, as_span(body));
}

Bytes device(std::string_view object, std::span<const Bytes> body) {
  return packaged({kExtended, kExtendedDevice}, named(object, body));
}

Bytes device(std::string_view object, Terms body) {
  return device(object, as_span(body));
}

Bytes method(std::string_view object, unsigned arguments, Serialized serialized, Terms body) {
  Bytes content = path(object);
  content.push_back(static_cast<std::uint8_t>(arguments | (serialized == Serialized::Yes ? 8U : 0U)));
  append(content, concat(body));
  return packaged({kMethod}, content);
}

Bytes operation_region(std::string_view object, Space space, std::uint64_t start, std::uint64_t length) {
  const Bytes kind{static_cast<std::uint8_t>(space)};
  return prefixed({kExtended, kExtendedRegion},
                  concat({path(object), kind, integer(start), integer(length)}));
}

Bytes field(std::string_view region, Access access, std::initializer_list<FieldUnit> units) {
  Bytes content = path(region);
  content.push_back(static_cast<std::uint8_t>(access));
  for (const FieldUnit& unit : units) {
    append(content, path(unit.name));
    // The width in bits, encoded as a PkgLength that does not count itself.
    unsigned bytes = 1;
    while (bytes < 4 && unit.bits > length_limit(bytes)) ++bytes;
    append(content, encode_length(unit.bits, bytes));
  }
  return packaged({kExtended, kExtendedField}, content);
}

Bytes local(unsigned n) {
  return {static_cast<std::uint8_t>(kLocal0 + n)};
}
Bytes arg(unsigned n) {
  return {static_cast<std::uint8_t>(kArg0 + n)};
}
Bytes store(const Bytes& value, const Bytes& target) {
  return operation(kStore, {value, target});
}
Bytes bit_and(const Bytes& a, const Bytes& b) {
  return operation(kAnd, {a, b, {kZero}});
}
Bytes equal(const Bytes& a, const Bytes& b) {
  return operation(kEqual, {a, b});
}

Bytes if_then(const Bytes& condition, Terms body) {
  Bytes content = condition;
  append(content, concat(body));
  return packaged({kIf}, content);
}

Bytes notify(std::string_view object, std::uint64_t value) {
  return operation(kNotify, {path(object), integer(value)});
}

Bytes give_back(const Bytes& value) {
  return operation(kReturn, {value});
}

}  // namespace vmmd::x86::aml
