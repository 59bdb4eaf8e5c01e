#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/unique_fd.h"
#include "devices/event_loop.h"
#include "devices/virtio/queue.h"
#include "devices/virtio/vsock/packet.h"

namespace vmmd::devices {

/// One stream between a guest's port and a Unix socket of the host.
///
/// Both directions have credit: the guest may have kBuffer bytes here that the socket has not taken, and we
/// send no more than the guest has room for. Data goes from the guest's buffers into the socket and from the
/// socket into the guest's buffers; only what the socket does not take at once is kept here.
///
/// Its owner calls fill() while wants_to_send(), and drops it when it is over(). All on the device's loop.
class VsockConnection {
 public:
  static constexpr std::uint32_t kBuffer = 64 << 10;      // bytes, buf_alloc
  static constexpr std::uint32_t kMaxPayload = 64 << 10;  // bytes of one packet to the guest

  /// Told on the loop that the socket has made the connection want to send, or be over.
  using Changed = std::function<void(VsockPorts)>;

  /// `socket` does not block. Asked for by the guest: answers it. Otherwise asks the guest, and answers the
  /// socket's other end when the guest has answered ("OK <port>\n").
  VsockConnection(VsockPorts ports, UniqueFd socket, bool from_guest, Changed changed);

  /// What the guest's header says of its room. Every packet carries it.
  void update_credit(const VsockHeader& header);
  /// A packet from the guest, whose payload lies in `chain` behind the header. Anything that does not fit the
  /// state of the connection resets it.
  void receive(const VsockHeader& header, const Chain& chain);

  /// Whether there is a packet to send, as far as is known without asking the socket.
  [[nodiscard]] bool wants_to_send() const;
  /// Writes the next packet into `chain`, which has room for a header and more, and returns its length.
  /// Nothing: there was none after all.
  [[nodiscard]] std::optional<std::uint32_t> fill(const Chain& chain, std::uint64_t guest_cid);
  /// The guest knows that the connection has ended (or has ended it).
  [[nodiscard]] bool over() const { return over_; }
  /// The host program has gone before the guest answered. Asks the socket.
  [[nodiscard]] bool abandoned() const;

  /// Waits for the socket on `loop` as far as there is something to wait for; suspend() stops that.
  void wait(EventLoop& loop);
  void suspend();

 private:
  enum class Phase : std::uint8_t { AskingGuest, Established };

  [[nodiscard]] std::uint32_t peer_room() const;
  [[nodiscard]] VsockHeader header(VsockOp op, std::uint64_t guest_cid);
  [[nodiscard]] bool can_read() const;
  void receive_data(const VsockHeader& header, const Chain& chain);
  void receive_shutdown(std::uint32_t flags);
  [[nodiscard]] std::uint32_t send_direct(const Chain& chain, std::uint32_t length);
  void flush();
  void forwarded(std::uint32_t count);
  void finish_sending();
  [[nodiscard]] std::optional<std::uint32_t> read_socket(const Chain& chain);
  void reset();

  const VsockPorts ports_;
  UniqueFd socket_;
  Changed changed_;
  Phase phase_;
  bool over_ = false;

  // To the socket.
  std::vector<std::byte> buffer_;  // [taken_, end): not yet taken by the socket
  std::size_t taken_ = 0;
  std::uint32_t received_ = 0;  // from the guest, modulo 2^32
  std::uint32_t forwarded_ = 0;
  std::uint32_t told_forwarded_ = 0;  // as the guest knows it
  std::uint32_t guest_shutdown_ = 0;  // flags of the guest's SHUTDOWN packets

  // To the guest.
  std::uint32_t sent_ = 0;
  std::uint32_t peer_buf_alloc_ = 0;
  std::uint32_t peer_fwd_cnt_ = 0;
  bool maybe_readable_ = true;  // the socket has not said that it is empty
  bool end_of_input_ = false;
  bool asked_for_credit_ = false;
  std::uint32_t host_shutdown_ = 0;  // flags to send

  // Packets to send, one of each at most.
  bool request_due_ = false;
  bool response_due_ = false;
  bool credit_due_ = false;
  bool credit_request_due_ = false;
  bool shutdown_due_ = false;
  bool reset_due_ = false;

  std::unique_ptr<FdWatch> read_watch_;
  std::unique_ptr<FdWatch> write_watch_;
};

}  // namespace vmmd::devices
