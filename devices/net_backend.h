#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"

namespace vmmd::devices {

/// Bytes of `struct virtio_net_hdr_v1` (virtio 1.2, 5.1.6) in front of every frame, in both directions.
inline constexpr std::size_t kNetHeaderSize = 12;
/// The longest frame without its header: a 64 KiB IP packet, or one to be cut into segments, behind an
/// Ethernet header with one VLAN tag.
inline constexpr std::size_t kMaxFrameSize = 65535 + 18;

/// How a frame fared.
enum class NetIo : std::uint8_t {
  Done,
  Again,    // send: no room now; receive: nothing there now. Wait for readiness
  Dropped,  // this frame is lost, the next may fare better
  Failed,   // nothing will ever go here again; failure() says why
};

/// The host's end of a virtio network device: a tap, a socket. Used on the device's loop only, while the
/// device runs; never blocks. One queue pair of the guest's is one `pair` here.
class NetBackend {
 public:
  virtual ~NetBackend() = default;

  /// For messages: "tap \"vmtap0\"".
  [[nodiscard]] virtual std::string name() const = 0;
  /// The most pairs that enable_pairs() takes. Constant.
  [[nodiscard]] virtual unsigned pairs() const = 0;
  /// Which of the feature bits GUEST_CSUM, CSUM, GUEST_TSO*, HOST_TSO*, GUEST_UFO, … it can serve. Constant.
  [[nodiscard]] virtual std::uint64_t offloads() const = 0;

  /// What the guest takes from now on: the GUEST_* bits. Frames that need others are cut and summed before.
  virtual Status set_guest_offloads(std::uint64_t features) = 0;
  /// Spreads what comes in over the first `active` pairs.
  virtual Status enable_pairs(unsigned active) = 0;

  /// What an EventLoop watches: readable when receive() has something new after it said Again, writable when
  /// send() has room again. -1 after a failure.
  [[nodiscard]] virtual int fd(unsigned pair) const = 0;

  /// Sends one frame, header first. The buffers are the guest's: they change while we look.
  virtual NetIo send(unsigned pair, std::span<const iovec> frame) = 0;
  /// Receives one frame, header first; its length with the header into `size`. The field num_buffers is not
  /// filled in. A frame for which there is not room enough is lost (Dropped).
  virtual NetIo receive(unsigned pair, std::span<const iovec> buffers, std::size_t& size) = 0;

  /// Why it failed; empty while it works.
  [[nodiscard]] virtual std::string failure() const = 0;
};

}  // namespace vmmd::devices
