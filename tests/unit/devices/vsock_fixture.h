#pragma once

#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "base/unix_socket.h"
#include "devices/virtio/vsock/vsock.h"
#include "tests/unit/support/temp_dir.h"
#include "tests/unit/support/virtio_device.h"

namespace vmmd::testing {

inline constexpr std::uint64_t kVsockCid = 0x52;
inline constexpr std::uint32_t kGuestPort = 0x1234;
inline constexpr std::uint32_t kRoom = 0x1'0000;  // the guest's, for each stream

struct Packet {
  devices::VsockHeader header;
  std::string data;
};

/// A guest with a vsock device, and the directory with its sockets.
struct Vsock {
  explicit Vsock(std::uint64_t cid = kVsockCid, std::uint64_t features = ~devices::kVirtioEventIdx)
      : device(loop, cid, {listener->fd(), listener->path()}), running(device, loop, guest, features) {}

  void start(unsigned count = 16) {
    for (unsigned i = 0; i < 4; ++i) offer_event_buffer();
    for (unsigned i = 0; i < count; ++i) offer_buffer();
    running.start();
  }
  void offer_event_buffer() {
    event_buffer = guest.allocate(4);
    guest.set(event_buffer, std::uint32_t{0xffff'ffff});
    running.driver(devices::VirtioVsock::kEvent).add({}, {{event_buffer, 4}});
  }
  void offer_buffer(std::uint32_t size = 4096) {
    const auto at = guest.allocate(devices::VsockHeader::kSize + size);
    const auto head = running.driver(devices::VirtioVsock::kReceive)
                          .add({}, {{at, devices::VsockHeader::kSize},
                                    {devices::GuestAddress(at.value + devices::VsockHeader::kSize), size}});
    if (buffers.size() <= head) buffers.resize(head + 1U);
    buffers[head] = at;
  }
  /// What the device has sent since the last call; as many new buffers are put up.
  std::vector<Packet> sent() {
    loop.run_ready();
    std::vector<Packet> packets;
    for (;;) {
      const auto used = running.driver(devices::VirtioVsock::kReceive).take_used();
      if (used.empty()) return packets;
      for (const Used& entry : used) {
        const auto at = buffers.at(entry.head);
        const std::string bytes = guest.bytes(at, entry.written);
        Packet packet{
            devices::VsockHeader::parse(std::as_bytes(std::span(bytes)).first<devices::VsockHeader::kSize>()),
            bytes.substr(devices::VsockHeader::kSize)};
        CHECK(packet.header.length == packet.data.size());
        packets.push_back(packet);
      }
      for (std::size_t i = 0; i < used.size(); ++i) offer_buffer();
      running.notify(devices::VirtioVsock::kReceive);
    }
  }
  Packet sent_one() {
    const auto packets = sent();
    REQUIRE(packets.size() == 1);
    return packets.front();
  }
  [[nodiscard]] devices::VsockHeader header(devices::VsockOp op, devices::VsockPorts ports) const {
    return {.src_cid = kVsockCid,
            .dst_cid = devices::kVsockHostCid,
            .src_port = ports.guest,
            .dst_port = ports.host,
            .length = 0,
            .type = devices::kVsockStream,
            .op = op,
            .flags = 0,
            .buf_alloc = room,
            .fwd_cnt = forwarded};
  }
  void send(devices::VsockHeader packet, std::string_view data = {}) {
    if (packet.length == 0) packet.length = static_cast<std::uint32_t>(data.size());
    std::vector<Buffer> chain{{guest.place(packet.bytes()), devices::VsockHeader::kSize}};
    if (!data.empty()) chain.push_back({guest.place(data), static_cast<std::uint32_t>(data.size())});
    running.driver(devices::VirtioVsock::kTransmit).add(chain, {});
    running.notify(devices::VirtioVsock::kTransmit);
    static_cast<void>(running.driver(devices::VirtioVsock::kTransmit).take_used());
  }
  void send(devices::VsockOp op, devices::VsockPorts ports, std::string_view data = {}) {
    send(header(op, ports), data);
  }
  void shut_down(devices::VsockPorts ports, std::uint32_t flags) {
    devices::VsockHeader packet = header(devices::VsockOp::Shutdown, ports);
    packet.flags = flags;
    send(packet);
  }

  /// A host program that connects to the device's socket.
  UniqueFd connect() const {
    auto socket = connect_unix(path);
    REQUIRE(socket);
    return std::move(*socket);
  }
  /// A stream that the host has asked for and the guest accepted.
  std::pair<UniqueFd, devices::VsockPorts> open_from_host() {
    UniqueFd socket = connect();
    write(socket, "CONNECT 4660\n");
    const devices::VsockHeader request = sent_one().header;
    CHECK(request.op == devices::VsockOp::Request);
    const devices::VsockPorts ports{.host = request.src_port, .guest = request.dst_port};
    send(devices::VsockOp::Response, ports);
    CHECK(read(socket) == "OK " + std::to_string(ports.host) + "\n");
    return {std::move(socket), ports};
  }
  void write(const UniqueFd& socket, std::string_view text) {
    REQUIRE(::write(socket.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    loop.run_ready();
  }
  /// What is there; "<end>" at the end.
  static std::string read(const UniqueFd& socket) {
    std::string text(1 << 20, '\0');
    const ssize_t n = ::recv(socket.get(), text.data(), text.size(), MSG_DONTWAIT);
    if (n == 0) return "<end>";
    text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    return text;
  }
  std::int64_t counter(const char* name) { return device.counters().at(name); }

  TempDir dir;
  std::string path = dir / "vm.vsock";
  std::unique_ptr<UnixListener> listener = *UnixListener::open(path, 16);
  FakeEventLoop loop;
  FakeGuest guest{16 << 20};
  devices::VirtioVsock device;
  RunningDevice running;
  std::vector<devices::GuestAddress> buffers;
  devices::GuestAddress event_buffer;
  std::uint32_t room = kRoom;
  std::uint32_t forwarded = 0;
};

/// A service of the host on a port, and the guest's stream to it.
struct Service {
  Service(Vsock& vsock, std::uint32_t port)
      : listener(*UnixListener::open(vsock.path + "_" + std::to_string(port), 4)),
        ports{.host = port, .guest = kGuestPort} {
    vsock.send(devices::VsockOp::Request, ports);
    socket.reset(::accept4(listener->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    REQUIRE(socket);
    const devices::VsockHeader response = vsock.sent_one().header;
    CHECK(response.op == devices::VsockOp::Response);
    CHECK(response.src_port == port);
    CHECK(response.dst_port == kGuestPort);
    CHECK(response.dst_cid == kVsockCid);
    CHECK(response.buf_alloc == devices::VsockConnection::kBuffer);
  }
  std::unique_ptr<UnixListener> listener;
  devices::VsockPorts ports;
  UniqueFd socket;
};

}  // namespace vmmd::testing
