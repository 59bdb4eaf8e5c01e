#include "devices/virtio/vsock/connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <utility>

namespace vmmd::devices {

namespace {

constexpr std::uint32_t kBothDirections = kVsockShutdownReceive | kVsockShutdownSend;
/// The guest is told of room when this much has come free since it last heard.
constexpr std::uint32_t kCreditStep = VsockConnection::kBuffer / 4;
constexpr std::size_t kMaxPieces = 64;

/// The pieces of [offset, offset + length) of a chain, at most kMaxPieces; for one system call.
class Pieces {
 public:
  Pieces(const std::vector<Segment>& segments, std::uint64_t offset, std::uint64_t length) {
    for (const Segment& segment : segments) {
      if (length == 0 || count_ == kMaxPieces) return;
      if (offset >= segment.length) {
        offset -= segment.length;
        continue;
      }
      const std::uint64_t size = std::min(segment.length - offset, length);
      pieces_.at(count_++) = {segment.host + offset, size};
      length -= size;
      offset = 0;
    }
  }
  [[nodiscard]] msghdr message() {
    msghdr message = {};
    message.msg_iov = pieces_.data();
    message.msg_iovlen = count_;
    return message;
  }

 private:
  std::array<iovec, kMaxPieces> pieces_;
  std::size_t count_ = 0;
};

bool hung_up(int fd) {
  pollfd state = {.fd = fd, .events = 0, .revents = 0};
  return ::poll(&state, 1, 0) > 0 && (state.revents & (POLLHUP | POLLERR)) != 0;
}

}  // namespace

VsockConnection::VsockConnection(VsockPorts ports, UniqueFd socket, bool from_guest, Changed changed)
    : ports_(ports),
      socket_(std::move(socket)),
      changed_(std::move(changed)),
      phase_(from_guest ? Phase::Established : Phase::AskingGuest),
      request_due_(!from_guest),
      response_due_(from_guest) {}

// ---- from the guest ----

void VsockConnection::update_credit(const VsockHeader& header) {
  peer_buf_alloc_ = header.buf_alloc;
  peer_fwd_cnt_ = header.fwd_cnt;
  if (peer_room() != 0) asked_for_credit_ = credit_request_due_ = false;
}

void VsockConnection::receive(const VsockHeader& header, const Chain& chain) {
  if (reset_due_) {
    if (header.op == VsockOp::Reset) over_ = true;
    return;
  }
  switch (header.op) {
    case VsockOp::Reset:
      over_ = true;
      return;
    case VsockOp::Response: {
      if (phase_ != Phase::AskingGuest || request_due_) return reset();
      phase_ = Phase::Established;
      const std::string ok = "OK " + std::to_string(ports_.host) + "\n";
      const ssize_t n = ::send(socket_.get(), ok.data(), ok.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      // A new socket has room for a line; if not, its peer has gone.
      if (n != static_cast<ssize_t>(ok.size())) reset();
      return;
    }
    case VsockOp::ReadWrite:
      return receive_data(header, chain);
    case VsockOp::CreditUpdate:
      return;
    case VsockOp::CreditRequest:
      credit_due_ = true;
      return;
    case VsockOp::Shutdown:
      return receive_shutdown(header.flags);
    case VsockOp::Request:
      break;
  }
  reset();
}

void VsockConnection::receive_data(const VsockHeader& header, const Chain& chain) {
  const std::uint32_t waiting = received_ - forwarded_;
  const bool allowed = phase_ == Phase::Established && (guest_shutdown_ & kVsockShutdownSend) == 0;
  if (!allowed || header.length > kBuffer - waiting) return reset();
  received_ += header.length;
  const std::uint32_t sent = waiting == 0 ? send_direct(chain, header.length) : 0;
  if (reset_due_) return;
  const std::size_t rest = header.length - sent;
  if (rest != 0) {
    const std::size_t end = buffer_.size();
    buffer_.resize(end + rest);
    // The owner has checked that the payload is there.
    static_cast<void>(chain.copy_out(VsockHeader::kSize + sent, std::span(buffer_).subspan(end)));
  }
  forwarded(sent);
}

std::uint32_t VsockConnection::send_direct(const Chain& chain, std::uint32_t length) {
  std::uint32_t done = 0;
  while (done < length) {
    Pieces pieces(chain.readable, VsockHeader::kSize + done, length - done);
    const msghdr message = pieces.message();
    const ssize_t n = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) reset();  // nobody is there to read
    if (n <= 0) break;
    done += static_cast<std::uint32_t>(n);
  }
  return done;
}

void VsockConnection::flush() {
  std::uint32_t done = 0;
  while (taken_ < buffer_.size()) {
    const ssize_t n =
        ::send(socket_.get(), buffer_.data() + taken_, buffer_.size() - taken_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) return reset();
    if (n <= 0) break;
    taken_ += static_cast<std::size_t>(n);
    done += static_cast<std::uint32_t>(n);
  }
  if (taken_ == buffer_.size()) {
    buffer_ = {};  // an idle connection keeps no memory
    taken_ = 0;
    write_watch_.reset();
  } else if (taken_ >= kBuffer) {
    buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(taken_));
    taken_ = 0;
  }
  forwarded(done);
}

void VsockConnection::forwarded(std::uint32_t count) {
  forwarded_ += count;
  if (forwarded_ - told_forwarded_ >= kCreditStep) credit_due_ = true;
  if (guest_shutdown_ != 0 && buffer_.empty()) finish_sending();
}

void VsockConnection::receive_shutdown(std::uint32_t flags) {
  guest_shutdown_ |= flags & kBothDirections;
  if ((guest_shutdown_ & kVsockShutdownReceive) != 0) {
    ::shutdown(socket_.get(), SHUT_RD);
    read_watch_.reset();
  }
  if (buffer_.empty()) finish_sending();
}

// Everything that the guest sent before its SHUTDOWN has reached the socket.
void VsockConnection::finish_sending() {
  if (guest_shutdown_ == kBothDirections) return reset();  // the answer to a full close (5.10.6.6)
  if ((guest_shutdown_ & kVsockShutdownSend) != 0) ::shutdown(socket_.get(), SHUT_WR);
}

// ---- to the guest ----

std::uint32_t VsockConnection::peer_room() const {
  const std::uint32_t waiting = sent_ - peer_fwd_cnt_;
  return waiting < peer_buf_alloc_ ? peer_buf_alloc_ - waiting : 0;
}

bool VsockConnection::can_read() const {
  return phase_ == Phase::Established && !reset_due_ && !end_of_input_ &&
         (guest_shutdown_ & kVsockShutdownReceive) == 0;
}

bool VsockConnection::wants_to_send() const {
  if (over_) return false;
  return reset_due_ || request_due_ || response_due_ || credit_due_ || credit_request_due_ || shutdown_due_ ||
         (can_read() && maybe_readable_ && (peer_room() != 0 || !asked_for_credit_));
}

VsockHeader VsockConnection::header(VsockOp op, std::uint64_t guest_cid) {
  told_forwarded_ = forwarded_;
  credit_due_ = false;
  return {.src_cid = kVsockHostCid,
          .dst_cid = guest_cid,
          .src_port = ports_.host,
          .dst_port = ports_.guest,
          .length = 0,
          .type = kVsockStream,
          .op = op,
          .flags = 0,
          .buf_alloc = kBuffer,
          .fwd_cnt = forwarded_};
}

std::optional<std::uint32_t> VsockConnection::fill(const Chain& chain, std::uint64_t guest_cid) {
  const auto put = [&](const VsockHeader& packet) {
    static_cast<void>(chain.copy_in(0, packet.bytes()));
    return static_cast<std::uint32_t>(VsockHeader::kSize) + packet.length;
  };
  if (reset_due_) {
    over_ = true;
    return put(header(VsockOp::Reset, guest_cid));
  }
  if (std::exchange(request_due_, false)) return put(header(VsockOp::Request, guest_cid));
  if (std::exchange(response_due_, false)) return put(header(VsockOp::Response, guest_cid));
  if (can_read() && maybe_readable_) {
    if (peer_room() == 0) {
      if (!std::exchange(asked_for_credit_, true)) credit_request_due_ = true;
    } else if (const auto count = read_socket(chain)) {
      VsockHeader packet = header(VsockOp::ReadWrite, guest_cid);
      packet.length = *count;
      sent_ += *count;
      return put(packet);
    }
  }
  if (reset_due_) return fill(chain, guest_cid);
  if (credit_due_) return put(header(VsockOp::CreditUpdate, guest_cid));
  if (std::exchange(credit_request_due_, false)) return put(header(VsockOp::CreditRequest, guest_cid));
  if (std::exchange(shutdown_due_, false)) {
    VsockHeader packet = header(VsockOp::Shutdown, guest_cid);
    packet.flags = host_shutdown_;
    return put(packet);
  }
  return std::nullopt;
}

std::optional<std::uint32_t> VsockConnection::read_socket(const Chain& chain) {
  const std::uint64_t room = chain.writable_size() - VsockHeader::kSize;
  const std::uint64_t most = std::min<std::uint64_t>({room, peer_room(), kMaxPayload});
  Pieces pieces(chain.writable, VsockHeader::kSize, most);
  msghdr message = pieces.message();
  ssize_t n = 0;
  do {
    n = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  if (n > 0) return static_cast<std::uint32_t>(n);
  maybe_readable_ = false;
  if (n < 0) {
    if (errno != EAGAIN) reset();
    return std::nullopt;
  }
  // The other end sends no more; if it has gone altogether, it will not receive either.
  end_of_input_ = true;
  read_watch_.reset();
  host_shutdown_ = kVsockShutdownSend | (hung_up(socket_.get()) ? kVsockShutdownReceive : 0);
  shutdown_due_ = true;
  return std::nullopt;
}

void VsockConnection::reset() {
  reset_due_ = true;
  suspend();
  socket_.reset();
  buffer_ = {};
  taken_ = 0;
}

bool VsockConnection::abandoned() const {
  return phase_ == Phase::AskingGuest && socket_ && hung_up(socket_.get());
}

// ---- waiting ----

void VsockConnection::wait(EventLoop& loop) {
  if (reset_due_ || over_) return;
  if (taken_ < buffer_.size()) {
    if (write_watch_ == nullptr) {
      auto watch = loop.watch(socket_.get(), FdEvent::Writable, [this] {
        const auto changed = changed_;  // this may be gone after it
        flush();
        changed(ports_);
      });
      if (!watch) return reset();
      write_watch_ = std::move(*watch);
    }
  }
  // While the guest has no room, or we know of more to read, nothing is to be waited for.
  if (!can_read() || maybe_readable_) {
    read_watch_.reset();
  } else if (read_watch_ == nullptr) {
    auto watch = loop.watch(socket_.get(), FdEvent::Readable, [this] {
      maybe_readable_ = true;
      const auto changed = changed_;
      changed(ports_);
    });
    if (!watch) return reset();
    read_watch_ = std::move(*watch);
  }
}

void VsockConnection::suspend() {
  read_watch_.reset();
  write_watch_.reset();
}

}  // namespace vmmd::devices
