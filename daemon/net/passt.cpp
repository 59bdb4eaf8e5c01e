#include "daemon/net/passt.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

namespace vmmd::net {

using devices::NetIo;

namespace {

constexpr std::size_t kLengthSize = 4;
constexpr std::size_t kShortestFrame = 14;   // an Ethernet header
constexpr std::size_t kLongestSent = 65535;  // more makes passt hang up
constexpr std::size_t kBufferSize = 2 * (kLengthSize + devices::kMaxFrameSize);

/// Cuts `count` bytes off the front.
void drop_front(std::vector<iovec>& parts, std::size_t count) {
  std::size_t whole = 0;
  for (; whole < parts.size() && count >= parts[whole].iov_len; ++whole) count -= parts[whole].iov_len;
  parts.erase(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(whole));
  if (parts.empty()) return;
  parts[0].iov_base = static_cast<std::byte*>(parts[0].iov_base) + count;
  parts[0].iov_len -= count;
}

std::size_t total(std::span<const iovec> parts) {
  std::size_t sum = 0;
  for (const iovec& part : parts) sum += part.iov_len;
  return sum;
}

}  // namespace

Result<std::unique_ptr<PasstBackend>> PasstBackend::connect(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return fail(ErrorCode::BadRequest, "the path of passt's socket has 1 to {} bytes",
                sizeof(address.sun_path) - 1);
  }
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return fail_errno(ErrorCode::Internal, errno, "cannot open a socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return fail_errno(ErrorCode::BadRequest, errno,
                      "cannot connect to passt at \"{}\": start it first (passt --socket {})", path, path);
  }
  return std::unique_ptr<PasstBackend>(new PasstBackend(path, std::move(socket)));
}

PasstBackend::PasstBackend(std::string path, UniqueFd socket)
    : path_(std::move(path)), socket_(std::move(socket)), in_(kBufferSize) {
  out_.reserve(kLengthSize + kLongestSent);
  parts_.reserve(1024);
}

NetIo PasstBackend::failed(std::string why) {
  failure_ = name() + " " + std::move(why);
  return NetIo::Failed;
}

// The rest of a frame that the socket took in part.
NetIo PasstBackend::finish_frame() {
  while (out_sent_ < out_.size()) {
    const ssize_t sent =
        ::send(socket_.get(), out_.data() + out_sent_, out_.size() - out_sent_, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EAGAIN || errno == EINTR) return NetIo::Again;
      return failed(std::string("does not take frames any more: ") + std::strerror(errno));
    }
    out_sent_ += static_cast<std::size_t>(sent);
  }
  return NetIo::Done;
}

NetIo PasstBackend::send(unsigned /*pair*/, std::span<const iovec> frame) {
  if (!failure_.empty()) return NetIo::Failed;
  if (const NetIo rest = finish_frame(); rest != NetIo::Done) return rest;
  const std::size_t all = total(frame);
  if (all < devices::kNetHeaderSize + kShortestFrame || all > devices::kNetHeaderSize + kLongestSent) {
    return NetIo::Dropped;
  }
  parts_.assign(frame.begin(), frame.end());
  drop_front(parts_, devices::kNetHeaderSize);
  std::uint32_t length = ::htonl(static_cast<std::uint32_t>(all - devices::kNetHeaderSize));
  parts_.insert(parts_.begin(), {&length, kLengthSize});
  if (parts_.size() > 1024) return NetIo::Dropped;  // IOV_MAX
  msghdr message = {};
  message.msg_iov = parts_.data();
  message.msg_iovlen = parts_.size();
  const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0) {
    if (errno == EAGAIN || errno == EINTR) return NetIo::Again;
    if (errno == EFAULT || errno == ENOMEM || errno == ENOBUFS) return NetIo::Dropped;
    return failed(std::string("does not take frames any more: ") + std::strerror(errno));
  }
  drop_front(parts_, static_cast<std::size_t>(sent));
  out_.clear();
  out_sent_ = 0;
  for (const iovec& part : parts_) {
    const auto* bytes = static_cast<const std::byte*>(part.iov_base);
    out_.insert(out_.end(), bytes, bytes + part.iov_len);
  }
  return NetIo::Done;
}

NetIo PasstBackend::fill() {
  if (in_begin_ > 0) {
    std::memmove(in_.data(), in_.data() + in_begin_, in_end_ - in_begin_);
    in_end_ -= std::exchange(in_begin_, 0);
  }
  const ssize_t got = ::recv(socket_.get(), in_.data() + in_end_, in_.size() - in_end_, MSG_DONTWAIT);
  if (got == 0) return failed("has hung up");
  if (got < 0) {
    if (errno == EAGAIN || errno == EINTR) return NetIo::Again;
    return failed(std::string("cannot be read: ") + std::strerror(errno));
  }
  in_end_ += static_cast<std::size_t>(got);
  return NetIo::Done;
}

NetIo PasstBackend::receive(unsigned /*pair*/, std::span<const iovec> buffers, std::size_t& size) {
  if (!failure_.empty()) return NetIo::Failed;
  std::size_t length = 0;
  for (;;) {
    const std::size_t there = in_end_ - in_begin_;
    if (there >= kLengthSize) {
      std::uint32_t word = 0;
      std::memcpy(&word, in_.data() + in_begin_, sizeof(word));
      length = ::ntohl(word);
      if (length < kShortestFrame || length > devices::kMaxFrameSize) {
        return failed("has sent a frame of " + std::to_string(length) + " bytes");
      }
      if (there >= kLengthSize + length) break;
    }
    if (const NetIo more = fill(); more != NetIo::Done) return more;
  }
  const std::byte* frame = in_.data() + in_begin_ + kLengthSize;
  in_begin_ += kLengthSize + length;
  size = devices::kNetHeaderSize + length;
  if (size > total(buffers)) return NetIo::Dropped;
  // A header of zeros: nothing is left to sum or to cut.
  std::size_t done = 0;
  for (const iovec& part : buffers) {
    auto* to = static_cast<std::byte*>(part.iov_base);
    const std::size_t wanted = std::min(part.iov_len, size - done);
    const std::size_t zeros =
        done < devices::kNetHeaderSize ? std::min(wanted, devices::kNetHeaderSize - done) : 0;
    std::memset(to, 0, zeros);
    if (wanted > zeros)
      std::memcpy(to + zeros, frame + (done + zeros - devices::kNetHeaderSize), wanted - zeros);
    done += wanted;
    if (done == size) break;
  }
  return NetIo::Done;
}

}  // namespace vmmd::net
