#include "daemon/net/interface.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

namespace vmmd::net {

namespace {

/// linux/ipv6.h, which cannot be included together with netinet/in.h.
struct In6IfReq {
  in6_addr address;
  std::uint32_t prefix_length;
  int index;
};

/// The number of leading ones; nothing where ones follow zeros.
std::optional<unsigned> prefix_of(std::span<const std::uint8_t> mask) {
  unsigned ones = 0;
  bool ended = false;
  for (const std::uint8_t byte : mask) {
    const auto leading = static_cast<unsigned>(std::countl_one(byte));
    if ((ended && byte != 0) || static_cast<std::uint8_t>(byte << leading) != 0) return std::nullopt;
    ended = ended || leading < 8;
    ones += leading;
  }
  return ones;
}

template <class Address>
std::optional<unsigned> parse_mask(int family, const std::string& text) {
  Address mask = {};
  if (::inet_pton(family, text.c_str(), &mask) != 1) return std::nullopt;
  std::array<std::uint8_t, sizeof(Address)> bytes{};
  std::memcpy(bytes.data(), &mask, sizeof(mask));
  return prefix_of(bytes);
}

ifreq request_for(const std::string& name) {
  ifreq request = {};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  return request;
}

sockaddr ipv4(const std::string& text) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  ::inet_pton(AF_INET, text.c_str(), &address.sin_addr);
  sockaddr plain = {};
  std::memcpy(&plain, &address, sizeof(plain));
  return plain;
}

}  // namespace

bool is_ip_and_mask(const std::string& ip, const std::string& mask) {
  in_addr v4 = {};
  in6_addr v6 = {};
  if (::inet_pton(AF_INET, ip.c_str(), &v4) == 1) {
    return mask.empty() || parse_mask<in_addr>(AF_INET, mask);
  }
  return ::inet_pton(AF_INET6, ip.c_str(), &v6) == 1 &&
         (mask.empty() || parse_mask<in6_addr>(AF_INET6, mask));
}

Result<Interface> Interface::open(const std::string& name) {
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno(ErrorCode::Internal, errno, "cannot open a socket to set up \"{}\"", name);
  return Interface(name, std::move(socket));
}

Result<unsigned> Interface::mtu() const {
  ifreq request = request_for(name_);
  if (::ioctl(socket_.get(), SIOCGIFMTU, &request) != 0) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot read the MTU of \"{}\"", name_);
  }
  return static_cast<unsigned>(request.ifr_mtu);
}

Status Interface::set_mtu(unsigned mtu) {
  VMMD_ASSIGN(const unsigned now, this->mtu());
  if (now == mtu) return {};
  ifreq request = request_for(name_);
  request.ifr_mtu = static_cast<int>(mtu);
  if (::ioctl(socket_.get(), SIOCSIFMTU, &request) != 0) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot set the MTU of \"{}\" to {} (it is {})", name_,
                      mtu, now);
  }
  return {};
}

Status Interface::set_mac(const std::array<std::uint8_t, 6>& mac) {
  ifreq request = request_for(name_);
  if (::ioctl(socket_.get(), SIOCGIFHWADDR, &request) == 0 &&
      std::memcmp(request.ifr_hwaddr.sa_data, mac.data(), mac.size()) == 0) {
    return {};
  }
  request = request_for(name_);
  request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
  std::memcpy(request.ifr_hwaddr.sa_data, mac.data(), mac.size());
  if (::ioctl(socket_.get(), SIOCSIFHWADDR, &request) != 0) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot set the MAC of \"{}\"", name_);
  }
  return {};
}

Status Interface::set_address(const std::string& ip, const std::string& mask) {
  if (!is_ip_and_mask(ip, mask)) {
    return fail(ErrorCode::BadRequest, "\"{}\" and \"{}\" are not an IP address and a netmask", ip, mask);
  }
  if (ip.find(':') != std::string::npos) return set_ipv6(ip, mask);
  ifreq request = request_for(name_);
  request.ifr_addr = ipv4(ip);
  if (::ioctl(socket_.get(), SIOCSIFADDR, &request) != 0) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot give \"{}\" the address {}", name_, ip);
  }
  if (mask.empty()) return {};
  request = request_for(name_);
  request.ifr_netmask = ipv4(mask);
  if (::ioctl(socket_.get(), SIOCSIFNETMASK, &request) != 0) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot give \"{}\" the netmask {}", name_, mask);
  }
  return {};
}

Status Interface::set_ipv6(const std::string& ip, const std::string& mask) {
  const UniqueFd socket(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  In6IfReq request = {};
  ::inet_pton(AF_INET6, ip.c_str(), &request.address);
  request.prefix_length = mask.empty() ? 64 : parse_mask<in6_addr>(AF_INET6, mask).value_or(64);
  request.index = static_cast<int>(::if_nametoindex(name_.c_str()));
  if (::ioctl(socket.get(), SIOCSIFADDR, &request) != 0 && errno != EEXIST) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot give \"{}\" the address {}", name_, ip);
  }
  return {};
}

Status Interface::bring_up() {
  ifreq request = request_for(name_);
  if (::ioctl(socket_.get(), SIOCGIFFLAGS, &request) != 0) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot read the flags of \"{}\"", name_);
  }
  if ((request.ifr_flags & IFF_UP) != 0) return {};
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (::ioctl(socket_.get(), SIOCSIFFLAGS, &request) != 0) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot bring \"{}\" up", name_);
  }
  return {};
}

}  // namespace vmmd::net
