#include "devices/virtio/vsock/packet.h"

#include <concepts>

namespace vmmd::devices {

namespace {

/// Visits every field in the order of the wire.
template <class Header, class Visit>
void fields(Header& h, Visit visit) {
  visit(h.src_cid), visit(h.dst_cid), visit(h.src_port), visit(h.dst_port), visit(h.length), visit(h.type);
  visit(h.op), visit(h.flags), visit(h.buf_alloc), visit(h.fwd_cnt);
}

}  // namespace

VsockHeader VsockHeader::parse(std::span<const std::byte, kSize> bytes) {
  VsockHeader header;
  std::size_t at = 0;
  fields(header, [&]<class Field>(Field& field) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(Field); ++i) {
      value |= std::to_integer<std::uint64_t>(bytes[at++]) << (8 * i);
    }
    field = static_cast<Field>(value);
  });
  return header;
}

std::array<std::byte, VsockHeader::kSize> VsockHeader::bytes() const {
  std::array<std::byte, kSize> out{};
  std::size_t at = 0;
  fields(*this, [&]<class Field>(const Field& field) {
    const auto value = static_cast<std::uint64_t>(field);
    for (std::size_t i = 0; i < sizeof(Field); ++i) out.at(at++) = static_cast<std::byte>(value >> (8 * i));
  });
  return out;
}

}  // namespace vmmd::devices
