#include "daemon/snapshot/format/wire.h"

#include <cstdint>

namespace vmmd::snapshot {
namespace {

// https://protobuf.dev/programming-guides/encoding/
constexpr unsigned kVarint = 0;
constexpr unsigned kFixed64 = 1;
constexpr unsigned kDelimited = 2;
constexpr unsigned kFixed32 = 5;

std::optional<std::uint64_t> take_varint(std::string_view& bytes) {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (bytes.empty()) return std::nullopt;
    const auto byte = static_cast<unsigned char>(bytes.front());
    bytes.remove_prefix(1);
    value |= std::uint64_t{byte & 0x7Fu} << shift;
    if ((byte & 0x80) == 0) return value;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> payload_size(std::string_view& bytes, unsigned wire_type) {
  switch (wire_type) {
    case kVarint:
      if (!take_varint(bytes)) return std::nullopt;
      return 0;
    case kFixed64:
      return 8;
    case kDelimited:
      return take_varint(bytes);
    case kFixed32:
      return 4;
    default:
      return std::nullopt;
  }
}

}  // namespace

std::optional<std::size_t> count_fields(std::string_view bytes, std::size_t limit) {
  std::size_t count = 0;
  while (!bytes.empty()) {
    const auto key = take_varint(bytes);
    if (!key || ++count > limit) return std::nullopt;
    const auto size = payload_size(bytes, static_cast<unsigned>(*key & 7));
    if (!size || *size > bytes.size()) return std::nullopt;
    bytes.remove_prefix(*size);
  }
  return count;
}

}  // namespace vmmd::snapshot
