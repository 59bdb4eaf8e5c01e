#include "daemon/net/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <numeric>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "base/file.h"
#include "daemon/net/interface.h"
#include "devices/virtio/net_protocol.h"

namespace vmmd::net {

using devices::NetIo;

namespace {

// TUN_F_USO4 and TUN_F_USO6, since Linux 6.2; the kernel takes both or neither.
constexpr unsigned kTunUso = 0x20 | 0x40;
constexpr unsigned kTunTso = TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;

unsigned tun_flags(std::uint64_t features) {
  using namespace devices;
  if ((features & kNetGuestCsum) == 0) return 0;  // the others need it
  unsigned flags = TUN_F_CSUM;
  if ((features & kNetGuestTso4) != 0) flags |= TUN_F_TSO4;
  if ((features & kNetGuestTso6) != 0) flags |= TUN_F_TSO6;
  if ((features & kNetGuestEcn) != 0 && (flags & (TUN_F_TSO4 | TUN_F_TSO6)) != 0) flags |= TUN_F_TSO_ECN;
  if ((features & kNetGuestUfo) != 0) flags |= TUN_F_UFO;
  if ((features & kNetGuestUso4) != 0 && (features & kNetGuestUso6) != 0) flags |= kTunUso;
  return flags;
}

Status check_name(const std::string& name) {
  const bool odd = name.find_first_of("/%: \t\n") != std::string::npos || name == "." || name == "..";
  if (name.size() < IFNAMSIZ && !odd) return {};
  return fail(ErrorCode::BadRequest,
              "\"{}\" is no name of an interface: 1 to {} bytes, none of / : % and space", name.substr(0, 64),
              IFNAMSIZ - 1);
}

tl::unexpected<Error> cannot_attach(const std::string& name, unsigned pairs, int error) {
  switch (error) {
    case EBUSY:
      return fail(ErrorCode::Conflict, "tap \"{}\" is in use by another process", name);
    case EPERM:
      return fail_errno(
          ErrorCode::BadRequest, error,
          "cannot open tap \"{}\": let its owner be this user (ip tuntap add mode tap user), pass it "
          "as fds, or use passt",
          name);
    case EINVAL:
      return fail_errno(ErrorCode::BadRequest, error,
                        "cannot open tap \"{}\" with {} queue pairs: is it a tap, made {} multi_queue?", name,
                        pairs, pairs > 1 ? "with" : "without");
    default:
      return fail_errno(ErrorCode::BadRequest, error, "cannot open tap \"{}\"", name);
  }
}

}  // namespace

Result<std::unique_ptr<TapBackend>> TapBackend::open(const Config& config) {
  VMMD_TRY(check_name(config.name));
  std::unique_ptr<TapBackend> tap(new TapBackend);
  tap->name_ = config.name.empty() ? "vmtap%d" : config.name;
  for (unsigned i = 0; i < config.pairs; ++i) {
    auto fd = open_file("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (!fd) return wrap(std::move(fd).error(), "cannot open a tap");
    ifreq request = {};
    tap->name_.copy(request.ifr_name, IFNAMSIZ - 1);
    const int flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (config.pairs > 1 ? IFF_MULTI_QUEUE : 0);
    request.ifr_flags = static_cast<short>(flags);
    if (::ioctl(fd->get(), TUNSETIFF, &request) != 0) return cannot_attach(tap->name_, config.pairs, errno);
    tap->name_ = request.ifr_name;  // the kernel has filled in the number
    VMMD_TRY(tap->add_queue(std::move(*fd)));
  }
  VMMD_ASSIGN(Interface interface, Interface::open(tap->name_));
  if (config.mac) VMMD_TRY(interface.set_mac(*config.mac));
  if (config.mtu) VMMD_TRY(interface.set_mtu(*config.mtu));
  if (!config.ip.empty()) VMMD_TRY(interface.set_address(config.ip, config.mask));
  VMMD_TRY(interface.bring_up());
  tap->probe_offloads();
  return tap;
}

Result<std::unique_ptr<TapBackend>> TapBackend::adopt(std::vector<UniqueFd> fds,
                                                      const std::vector<std::int32_t>& numbers) {
  std::unique_ptr<TapBackend> tap(new TapBackend);
  for (std::size_t i = 0; i < fds.size(); ++i) {
    UniqueFd& fd = fds[i];
    const std::string what = numbers.at(i) >= 0 ? fmt::format("descriptor {}", numbers.at(i))
                                                : fmt::format("descriptor {} of {}", i + 1, fds.size());
    ifreq request = {};
    if (::ioctl(fd.get(), TUNGETIFF, &request) != 0) {
      return fail_errno(ErrorCode::BadRequest, errno, "{} is not an open tap", what);
    }
    const auto flags = static_cast<unsigned>(request.ifr_flags);
    if ((flags & IFF_TAP) == 0 || (flags & IFF_VNET_HDR) == 0 || (flags & IFF_NO_PI) == 0) {
      return fail(ErrorCode::BadRequest,
                  "{} was opened without IFF_TAP, IFF_NO_PI or IFF_VNET_HDR: all are needed", what);
    }
    if (i > 0 && tap->name_ != request.ifr_name) {
      return fail(
          ErrorCode::BadRequest,
          "{} is tap \"{}\", not \"{}\" as the one before: the pairs of a network are queues of one tap",
          what, request.ifr_name, tap->name_);
    }
    tap->name_ = request.ifr_name;
    const int status = ::fcntl(fd.get(), F_GETFL);
    if (status < 0 || ::fcntl(fd.get(), F_SETFL, status | O_NONBLOCK) != 0) {
      return fail_errno(ErrorCode::Internal, errno, "cannot make {} non-blocking", what);
    }
    VMMD_TRY(tap->add_queue(std::move(fd)));
  }
  if (tap->queues_.empty()) return fail(ErrorCode::BadRequest, "no descriptor of a tap was given");
  tap->probe_offloads();
  return tap;
}

Status TapBackend::add_queue(UniqueFd fd) {
  int size = devices::kNetHeaderSize;
  if (::ioctl(fd.get(), TUNSETVNETHDRSZ, &size) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot set the header size of tap \"{}\"", name_);
  }
  queues_.push_back({std::move(fd)});
  return {};
}

// Leaves all offloads off: set_guest_offloads() follows when the guest has a driver.
void TapBackend::probe_offloads() {
  using namespace devices;
  const auto takes = [&](unsigned flags) { return ::ioctl(queues_[0].fd.get(), TUNSETOFFLOAD, flags) == 0; };
  if (takes(TUN_F_CSUM)) offloads_ |= kNetCsumOffloads;
  if (takes(TUN_F_CSUM | kTunTso)) offloads_ |= kNetTsoOffloads;
  if (takes(TUN_F_CSUM | TUN_F_UFO)) offloads_ |= kNetGuestUfo | kNetHostUfo;
  if (takes(TUN_F_CSUM | kTunUso)) offloads_ |= kNetGuestUso4 | kNetGuestUso6 | kNetHostUso;
  static_cast<void>(takes(0));
}

Status TapBackend::set_guest_offloads(std::uint64_t features) {
  if (!failure_.empty()) return {};
  if (::ioctl(queues_[0].fd.get(), TUNSETOFFLOAD, tun_flags(features)) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot set the offloads of tap \"{}\"", name_);
  }
  return {};
}

Status TapBackend::enable_pairs(unsigned active) {
  if (!failure_.empty() || queues_.size() == 1) return {};
  for (unsigned i = 0; i < queues_.size(); ++i) {
    const bool wanted = i < active;
    if (queues_[i].attached == wanted) continue;
    ifreq request = {};
    request.ifr_flags = static_cast<short>(wanted ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE);
    if (::ioctl(queues_[i].fd.get(), TUNSETQUEUE, &request) != 0) {
      return fail_errno(ErrorCode::Internal, errno, "cannot {} queue pair {} of tap \"{}\"",
                        wanted ? "attach" : "detach", i, name_);
    }
    queues_[i].attached = wanted;
  }
  return {};
}

// What one frame or a moment may cause is Dropped: an odd header (EINVAL), no memory, an interface that is
// down (EIO). What stays is the end: the interface was deleted.
NetIo TapBackend::failed(const char* what, int error) {
  if (error == EAGAIN || error == EINTR) return NetIo::Again;
  if (error != EBADFD && error != EBADF && error != ENODEV && error != ENXIO) return NetIo::Dropped;
  failure_ = fail_errno(ErrorCode::Internal, error, "tap \"{}\" was deleted: {} failed", name_, what)
                 .value()
                 .to_string();
  return NetIo::Failed;
}

NetIo TapBackend::send(unsigned pair, std::span<const iovec> frame) {
  if (!failure_.empty()) return NetIo::Failed;
  // Most frames are one piece, for which a plain write is a tenth cheaper.
  const int fd = queues_[pair].fd.get();
  const ssize_t sent = frame.size() == 1 ? ::write(fd, frame[0].iov_base, frame[0].iov_len)
                                         : ::writev(fd, frame.data(), static_cast<int>(frame.size()));
  return sent >= 0 ? NetIo::Done : failed("writev", errno);
}

NetIo TapBackend::receive(unsigned pair, std::span<const iovec> buffers, std::size_t& size) {
  if (!failure_.empty()) return NetIo::Failed;
  // The kernel cuts a frame that is too long and does not say so: one byte more tells.
  std::byte excess{};
  buffers_.assign(buffers.begin(), buffers.end());
  buffers_.push_back({&excess, 1});
  const ssize_t got = ::readv(queues_[pair].fd.get(), buffers_.data(), static_cast<int>(buffers_.size()));
  if (got < 0) {
    // EFAULT and ENOMEM lose the frame that was taken off; an interface that is down has none.
    return errno == EIO ? NetIo::Again : failed("readv", errno);
  }
  size = static_cast<std::size_t>(got);
  const auto room = std::accumulate(buffers.begin(), buffers.end(), std::size_t{0},
                                    [](std::size_t sum, const iovec& part) { return sum + part.iov_len; });
  return size <= room ? NetIo::Done : NetIo::Dropped;
}

}  // namespace vmmd::net
