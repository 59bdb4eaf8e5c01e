#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace vmmd::devices {

/// virtio 1.2, 5.10.6: operations of the stream transport.
enum class VsockOp : std::uint16_t {
  Request = 1,
  Response = 2,
  Reset = 3,
  Shutdown = 4,
  ReadWrite = 5,
  CreditUpdate = 6,
  CreditRequest = 7,
};

inline constexpr std::uint16_t kVsockStream = 1;
inline constexpr std::uint32_t kVsockShutdownReceive = 1U << 0;  // the sender will receive no more
inline constexpr std::uint32_t kVsockShutdownSend = 1U << 1;     // the sender will send no more
inline constexpr std::uint64_t kVsockHostCid = 2;

/// The two ports that name a connection. The CIDs are always the guest's and the host's.
struct VsockPorts {
  std::uint32_t host = 0;
  std::uint32_t guest = 0;
  auto operator<=>(const VsockPorts&) const = default;
};

/// struct virtio_vsock_hdr, 44 bytes, little endian. Whatever bytes make one; the values are the sender's.
struct VsockHeader {
  static constexpr std::size_t kSize = 44;

  std::uint64_t src_cid = 0;
  std::uint64_t dst_cid = 0;
  std::uint32_t src_port = 0;
  std::uint32_t dst_port = 0;
  std::uint32_t length = 0;  // bytes of payload
  std::uint16_t type = kVsockStream;
  VsockOp op = VsockOp::Reset;
  std::uint32_t flags = 0;
  std::uint32_t buf_alloc = 0;  // room for the connection's data at the sender
  std::uint32_t fwd_cnt = 0;    // bytes that have left that room so far, modulo 2^32

  [[nodiscard]] static VsockHeader parse(std::span<const std::byte, kSize> bytes);
  [[nodiscard]] std::array<std::byte, kSize> bytes() const;
  bool operator==(const VsockHeader&) const = default;
};

}  // namespace vmmd::devices
