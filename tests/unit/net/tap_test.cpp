#include "daemon/net/tap.h"

#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>

#include <doctest/doctest.h>

#include "daemon/net/interface.h"
#include "devices/virtio/net_protocol.h"

using namespace vmmd;
using namespace vmmd::devices;
using net::TapBackend;

namespace {

/// Runs a test on a thread with a network namespace of its own, which goes with it. Where that may not be
/// made (not root, no tun), the test says so and checks nothing.
void in_own_namespace(const std::function<void()>& test) {
  bool possible = false;
  std::thread([&] {
    possible = ::access("/dev/net/tun", R_OK | W_OK) == 0 && ::unshare(CLONE_NEWNET) == 0;
    if (possible) test();
  }).join();
  if (!possible) MESSAGE("skipped: no network namespace or no /dev/net/tun here");
}

/// What the host's side of the tap sees.
struct HostSocket {
  explicit HostSocket(const std::string& name)
      : fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL))) {
    sockaddr_ll address = {};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(::if_nametoindex(name.c_str()));
    REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  }
  static std::uint16_t htons(int value) { return static_cast<std::uint16_t>(value << 8 | value >> 8); }
  /// The next frame of our own kind; the kernel sends others by itself.
  [[nodiscard]] std::string read() const {
    std::array<char, 2048> bytes{};
    for (;;) {
      const ssize_t got = ::recv(fd.get(), bytes.data(), bytes.size(), 0);
      if (got >= 14 && bytes[12] == '\x88' && bytes[13] == '\xb5')
        return {bytes.data(), static_cast<std::size_t>(got)};
    }
  }
  UniqueFd fd;
};

TapBackend::Config tap_named(const std::string& name, unsigned pairs = 1) {
  TapBackend::Config config;
  config.name = name;
  config.pairs = pairs;
  return config;
}

/// Local experimental ethertype 0x88b5, to everybody.
std::string frame_of(const std::string& payload) {
  return std::string("\xff\xff\xff\xff\xff\xff\x02\x01\x02\x03\x04\x05\x88\xb5", 14) + payload;
}

NetIo send(TapBackend& tap, std::string frame) {
  std::string header(kNetHeaderSize, '\0');
  const std::array<iovec, 2> parts{{{header.data(), header.size()}, {frame.data(), frame.size()}}};
  return tap.send(0, parts);
}

/// The next frame of our kind, or what went wrong.
NetIo receive(TapBackend& tap, std::size_t room, std::string& frame) {
  for (;;) {
    frame.assign(room, '\0');
    const std::array<iovec, 1> parts{{{frame.data(), room}}};
    std::size_t size = 0;
    const NetIo outcome = tap.receive(0, parts, size);
    if (outcome == NetIo::Dropped) continue;
    if (outcome != NetIo::Done) return outcome;
    if (frame.substr(kNetHeaderSize + 12, 2) != "\x88\xb5") continue;
    frame = frame.substr(kNetHeaderSize, size - kNetHeaderSize);
    return NetIo::Done;
  }
}

}  // namespace

TEST_CASE("tap: frames pass both ways") {
  in_own_namespace([] {
    auto tap = TapBackend::open(tap_named("vmt0"));
    REQUIRE(tap.has_value());
    const HostSocket host("vmt0");
    const std::string out = frame_of(std::string(50, 'o'));
    CHECK(send(**tap, out) == NetIo::Done);
    CHECK(host.read() == out);
    const std::string in = frame_of(std::string(60, 'i'));
    REQUIRE(::send(host.fd.get(), in.data(), in.size(), 0) == static_cast<ssize_t>(in.size()));
    std::string got;
    CHECK(receive(**tap, 2048, got) == NetIo::Done);
    CHECK(got == in);
    CHECK(receive(**tap, 2048, got) == NetIo::Again);
  });
}

TEST_CASE("tap: a frame that fits exactly is taken, a longer one is not cut") {
  in_own_namespace([] {
    auto tap = TapBackend::open(tap_named("vmt0"));
    REQUIRE(tap.has_value());
    const HostSocket host("vmt0");
    for (const std::size_t payload : {87U, 86U}) {
      const std::string in = frame_of(std::string(payload, 'i'));
      REQUIRE(::send(host.fd.get(), in.data(), in.size(), 0) == static_cast<ssize_t>(in.size()));
    }
    std::string got;
    CHECK(receive(**tap, kNetHeaderSize + 100, got) == NetIo::Done);
    CHECK(got == frame_of(std::string(86, 'i')));
  });
}

TEST_CASE("tap: the host's side gets MAC, MTU and address, and is up") {
  in_own_namespace([] {
    const std::array<std::uint8_t, 6> mac{0x02, 0x12, 0x23, 0x34, 0x45, 0x56};
    TapBackend::Config config;
    config.mtu = 1400;
    config.mac = mac;
    config.ip = "192.0.2.1";
    config.mask = "255.255.255.128";
    auto tap = TapBackend::open(config);
    REQUIRE(tap.has_value());
    CHECK((*tap)->interface() == "vmtap0");
    CHECK(*net::Interface::open("vmtap0")->mtu() == 1400);
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request = {};
    std::strcpy(request.ifr_name, "vmtap0");
    REQUIRE(::ioctl(socket.get(), SIOCGIFHWADDR, &request) == 0);
    CHECK(std::memcmp(request.ifr_hwaddr.sa_data, mac.data(), mac.size()) == 0);
    REQUIRE(::ioctl(socket.get(), SIOCGIFFLAGS, &request) == 0);
    CHECK((request.ifr_flags & IFF_UP) != 0);
    REQUIRE(::ioctl(socket.get(), SIOCGIFNETMASK, &request) == 0);
    CHECK(static_cast<unsigned char>(request.ifr_netmask.sa_data[5]) == 128);
  });
}

TEST_CASE("tap: offloads and pairs can be switched") {
  in_own_namespace([] {
    auto tap = TapBackend::open(tap_named("vmt0", 2));
    REQUIRE(tap.has_value());
    CHECK(((*tap)->offloads() & kNetCsumOffloads) == kNetCsumOffloads);
    CHECK(((*tap)->offloads() & kNetTsoOffloads) == kNetTsoOffloads);
    CHECK((*tap)->set_guest_offloads(kNetGuestOffloads & (*tap)->offloads()).has_value());
    CHECK((*tap)->set_guest_offloads(0).has_value());
    CHECK((*tap)->enable_pairs(1).has_value());
    CHECK((*tap)->enable_pairs(2).has_value());
    CHECK((*tap)->enable_pairs(2).has_value());
  });
}

TEST_CASE("tap: one that is deleted has failed") {
  in_own_namespace([] {
    auto tap = TapBackend::open(tap_named("vmt0"));
    REQUIRE(tap.has_value());
    REQUIRE(std::system("ip link delete vmt0") == 0);
    CHECK(send(**tap, frame_of("gone")) == NetIo::Failed);
    CHECK((*tap)->fd(0) == -1);
    CHECK((*tap)->failure().find("vmt0") != std::string::npos);
  });
}

TEST_CASE("tap: a tap in use is a conflict") {
  in_own_namespace([] {
    auto first = TapBackend::open(tap_named("vmt0"));
    REQUIRE(first.has_value());
    auto second = TapBackend::open(tap_named("vmt0"));
    REQUIRE_FALSE(second.has_value());
    CHECK(second.error().code == ErrorCode::Conflict);
  });
}

TEST_CASE("tap: open descriptors are taken over, others refused") {
  in_own_namespace([] {
    const auto open_tun = [](int flags) {
      UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
      ifreq request = {};
      request.ifr_flags = static_cast<short>(flags);
      REQUIRE(::ioctl(fd.get(), TUNSETIFF, &request) == 0);
      return fd;
    };
    std::vector<UniqueFd> good;
    good.push_back(open_tun(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR));
    auto tap = TapBackend::adopt(std::move(good), {-1});
    REQUIRE(tap.has_value());
    std::string got;
    CHECK(receive(**tap, 2048, got) == NetIo::Again);  // and does not block
    std::vector<UniqueFd> plain;
    plain.push_back(open_tun(IFF_TAP | IFF_NO_PI));
    const auto bare = TapBackend::adopt(std::move(plain), {-1});
    REQUIRE_FALSE(bare.has_value());
    CHECK(bare.error().to_string().starts_with("descriptor 1 of 1 was opened without"));
    std::vector<UniqueFd> file;
    file.emplace_back(::open("/dev/null", O_RDWR | O_CLOEXEC));
    const auto none = TapBackend::adopt(std::move(file), {4711});
    REQUIRE_FALSE(none.has_value());
    CHECK(none.error().to_string().starts_with("descriptor 4711 is not an open tap"));
    std::vector<UniqueFd> two;
    for (int i = 0; i < 2; ++i) two.push_back(open_tun(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR));
    const auto mixed = TapBackend::adopt(std::move(two), {7, 8});
    REQUIRE_FALSE(mixed.has_value());
    CHECK(mixed.error().to_string().starts_with("descriptor 8 is tap"));
  });
}

TEST_CASE("tap: addresses and names are checked") {
  CHECK(net::is_ip_and_mask("192.0.2.1", "255.255.254.0"));
  CHECK_FALSE(net::is_ip_and_mask("192.0.2.1", "255.0.255.0"));
  CHECK_FALSE(net::is_ip_and_mask("192.0.2.1", "ffff::"));
  CHECK(net::is_ip_and_mask("fd00::1", "ffff:ffff::"));
  CHECK_FALSE(net::is_ip_and_mask("localhost", ""));
  CHECK_FALSE(TapBackend::open(tap_named("sixteen-bytes-xx")).has_value());
  CHECK_FALSE(TapBackend::open(tap_named("a/b")).has_value());
  CHECK_FALSE(TapBackend::open(tap_named("tap%d")).has_value());
}
