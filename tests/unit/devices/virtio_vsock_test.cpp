#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "base/unix_socket.h"
#include "devices/virtio/vsock/vsock.h"
#include "proto/state.pb.h"
#include "tests/unit/support/temp_dir.h"
#include "tests/unit/support/virtio_device.h"

using namespace vmmd;
using namespace vmmd::devices;
using namespace vmmd::testing;

namespace {

constexpr std::uint64_t kCid = 0x52;
constexpr std::uint32_t kGuestPort = 0x1234;
constexpr std::uint32_t kRoom = 0x1'0000;  // the guest's, for each stream

struct Packet {
  VsockHeader header;
  std::string data;
};

/// A guest with a vsock device, and the directory with its sockets.
struct Vsock {
  explicit Vsock(std::uint64_t cid = kCid, std::uint64_t features = ~devices::kVirtioEventIdx)
      : device(loop, cid, {listener->fd(), listener->path()}), running(device, loop, guest, features) {}

  void start(unsigned count = 16) {
    for (unsigned i = 0; i < 4; ++i) offer_event_buffer();
    for (unsigned i = 0; i < count; ++i) offer_buffer();
    running.start();
  }
  void offer_event_buffer() {
    event_buffer = guest.allocate(4);
    guest.set(event_buffer, std::uint32_t{0xffff'ffff});
    running.driver(VirtioVsock::kEvent).add({}, {{event_buffer, 4}});
  }
  void offer_buffer(std::uint32_t size = 4096) {
    const auto at = guest.allocate(VsockHeader::kSize + size);
    const auto head =
        running.driver(VirtioVsock::kReceive)
            .add({}, {{at, VsockHeader::kSize}, {GuestAddress(at.value + VsockHeader::kSize), size}});
    if (buffers.size() <= head) buffers.resize(head + 1U);
    buffers[head] = at;
  }
  /// What the device has sent since the last call; as many new buffers are put up.
  std::vector<Packet> sent() {
    loop.run_ready();
    std::vector<Packet> packets;
    for (;;) {
      const auto used = running.driver(VirtioVsock::kReceive).take_used();
      if (used.empty()) return packets;
      for (const Used& entry : used) {
        const auto at = buffers.at(entry.head);
        const std::string bytes = guest.bytes(at, entry.written);
        Packet packet{VsockHeader::parse(std::as_bytes(std::span(bytes)).first<VsockHeader::kSize>()),
                      bytes.substr(VsockHeader::kSize)};
        CHECK(packet.header.length == packet.data.size());
        packets.push_back(packet);
      }
      for (std::size_t i = 0; i < used.size(); ++i) offer_buffer();
      running.notify(VirtioVsock::kReceive);
    }
  }
  Packet sent_one() {
    const auto packets = sent();
    REQUIRE(packets.size() == 1);
    return packets.front();
  }
  [[nodiscard]] VsockHeader header(VsockOp op, VsockPorts ports) const {
    return {.src_cid = kCid,
            .dst_cid = kVsockHostCid,
            .src_port = ports.guest,
            .dst_port = ports.host,
            .length = 0,
            .type = kVsockStream,
            .op = op,
            .flags = 0,
            .buf_alloc = room,
            .fwd_cnt = forwarded};
  }
  void send(VsockHeader packet, std::string_view data = {}) {
    if (packet.length == 0) packet.length = static_cast<std::uint32_t>(data.size());
    std::vector<Buffer> chain{{guest.place(packet.bytes()), VsockHeader::kSize}};
    if (!data.empty()) chain.push_back({guest.place(data), static_cast<std::uint32_t>(data.size())});
    running.driver(VirtioVsock::kTransmit).add(chain, {});
    running.notify(VirtioVsock::kTransmit);
    static_cast<void>(running.driver(VirtioVsock::kTransmit).take_used());
  }
  void send(VsockOp op, VsockPorts ports, std::string_view data = {}) { send(header(op, ports), data); }
  void shut_down(VsockPorts ports, std::uint32_t flags) {
    VsockHeader packet = header(VsockOp::Shutdown, ports);
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
  std::pair<UniqueFd, VsockPorts> open_from_host() {
    UniqueFd socket = connect();
    write(socket, "CONNECT 4660\n");
    const VsockHeader request = sent_one().header;
    CHECK(request.op == VsockOp::Request);
    const VsockPorts ports{.host = request.src_port, .guest = request.dst_port};
    send(VsockOp::Response, ports);
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
  VirtioVsock device;
  RunningDevice running;
  std::vector<GuestAddress> buffers;
  GuestAddress event_buffer;
  std::uint32_t room = kRoom;
  std::uint32_t forwarded = 0;
};

/// A service of the host on a port, and the guest's stream to it.
struct Service {
  Service(Vsock& vsock, std::uint32_t port)
      : listener(*UnixListener::open(vsock.path + "_" + std::to_string(port), 4)),
        ports{.host = port, .guest = kGuestPort} {
    vsock.send(VsockOp::Request, ports);
    socket.reset(::accept4(listener->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    REQUIRE(socket);
    const VsockHeader response = vsock.sent_one().header;
    CHECK(response.op == VsockOp::Response);
    CHECK(response.src_port == port);
    CHECK(response.dst_port == kGuestPort);
    CHECK(response.dst_cid == kCid);
    CHECK(response.buf_alloc == VsockConnection::kBuffer);
  }
  std::unique_ptr<UnixListener> listener;
  VsockPorts ports;
  UniqueFd socket;
};

}  // namespace

TEST_CASE("virtio-vsock headers survive their bytes") {
  const VsockHeader header{.src_cid = 0x0102030405060708,
                           .dst_cid = 0x1112131415161718,
                           .src_port = 0x21222324,
                           .dst_port = 0x31323334,
                           .length = 0x41424344,
                           .type = 0x5152,
                           .op = static_cast<VsockOp>(0x6162),
                           .flags = 0x71727374,
                           .buf_alloc = 0x81828384,
                           .fwd_cnt = 0x91929394};
  const auto bytes = header.bytes();
  CHECK(VsockHeader::parse(bytes) == header);
  CHECK(bytes[0] == std::byte{0x08});
  CHECK(bytes[24] == std::byte{0x44});
  CHECK(bytes[43] == std::byte{0x91});
}

TEST_CASE("virtio-vsock tells its CID") {
  Vsock vsock(0x0102'0304);
  CHECK(vsock.device.read_config(0, 8) == 0x0102'0304);
  CHECK(vsock.device.read_config(8, 4) == 0);
}

TEST_CASE("virtio-vsock: a host program reaches a port of the guest, and both talk") {
  Vsock vsock;
  vsock.start();
  const auto [socket, ports] = vsock.open_from_host();
  CHECK(ports.guest == kGuestPort);
  vsock.write(socket, "to the guest");
  CHECK(vsock.sent_one().data == "to the guest");
  vsock.send(VsockOp::ReadWrite, ports, "to the host");
  CHECK(Vsock::read(socket) == "to the host");
  CHECK(vsock.counter("connections") == 1);
  CHECK(vsock.counter("rx_bytes") == 12);
  CHECK(vsock.counter("tx_bytes") == 11);
}

TEST_CASE("virtio-vsock: what a host program sends with its greeting is the stream's") {
  Vsock vsock;
  vsock.start();
  const UniqueFd socket = vsock.connect();
  vsock.write(socket, "CONN");
  CHECK(vsock.sent().empty());
  vsock.write(socket, "ECT 4660\nearly data");
  const VsockHeader request = vsock.sent_one().header;
  vsock.send(VsockOp::Response, {.host = request.src_port, .guest = kGuestPort});
  CHECK(vsock.sent_one().data == "early data");
}

TEST_CASE("virtio-vsock closes on a host program whose greeting is none") {
  Vsock vsock;
  vsock.start();
  for (const char* greeting : {"CONNECT\n", "CONNECT -1\n", "CONNECT 4294967296\n", "CONNECT 12x\n",
                               "connect 12\n", "\n", "CONNECT 00000000000000000000000000000012\n"}) {
    CAPTURE(greeting);
    const UniqueFd socket = vsock.connect();
    REQUIRE(::write(socket.get(), greeting, std::string_view(greeting).size()) > 0);
    vsock.loop.run_ready();
    char byte = 0;
    CHECK(::recv(socket.get(), &byte, 1, MSG_DONTWAIT) <= 0);
    pollfd state = {.fd = socket.get(), .events = 0, .revents = 0};
    CHECK(::poll(&state, 1, 0) == 1);
  }
  CHECK(vsock.sent().empty());
}

TEST_CASE("virtio-vsock closes on a host program when the guest refuses") {
  Vsock vsock;
  vsock.start();
  const UniqueFd socket = vsock.connect();
  vsock.write(socket, "CONNECT 4660\n");
  const VsockHeader request = vsock.sent_one().header;
  vsock.send(VsockOp::Reset, {.host = request.src_port, .guest = kGuestPort});
  CHECK(Vsock::read(socket) == "<end>");
  CHECK(vsock.counter("connections") == 0);
  CHECK(vsock.sent().empty());
}

TEST_CASE("virtio-vsock: the guest reaches a service of the host") {
  Vsock vsock;
  vsock.start();
  const Service service(vsock, 52);
  vsock.send(VsockOp::ReadWrite, service.ports, "question");
  CHECK(Vsock::read(service.socket) == "question");
  vsock.write(service.socket, "answer");
  const Packet answer = vsock.sent_one();
  CHECK(answer.data == "answer");
  CHECK(answer.header.fwd_cnt == 8);
}

TEST_CASE("virtio-vsock resets what the guest sends to nobody") {
  Vsock vsock;
  vsock.start();
  const VsockPorts ports{.host = 99, .guest = kGuestPort};
  for (const VsockOp op : {VsockOp::Request, VsockOp::Response, VsockOp::Shutdown, VsockOp::ReadWrite,
                           VsockOp::CreditUpdate, VsockOp::CreditRequest, static_cast<VsockOp>(77)}) {
    CAPTURE(static_cast<int>(op));
    vsock.send(op, ports);
    const VsockHeader answer = vsock.sent_one().header;
    CHECK(answer.op == VsockOp::Reset);
    CHECK(answer.src_port == 99);
    CHECK(answer.dst_port == kGuestPort);
    CHECK(answer.src_cid == kVsockHostCid);
    CHECK(answer.dst_cid == kCid);
  }
  vsock.send(VsockOp::Reset, ports);
  CHECK(vsock.sent().empty());
}

TEST_CASE("virtio-vsock resets other CIDs and types, and drops what is no packet of this guest") {
  Vsock vsock;
  vsock.start();
  VsockHeader packet = vsock.header(VsockOp::Request, {.host = 52, .guest = kGuestPort});
  packet.dst_cid = 7;
  vsock.send(packet);
  const VsockHeader answer = vsock.sent_one().header;
  CHECK(answer.op == VsockOp::Reset);
  CHECK(answer.src_cid == 7);
  packet = vsock.header(VsockOp::Request, {.host = 52, .guest = kGuestPort});
  packet.type = 2;
  vsock.send(packet);
  CHECK(vsock.sent_one().header.type == 2);
  packet = vsock.header(VsockOp::Request, {.host = 52, .guest = kGuestPort});
  packet.src_cid = kCid + 1;
  vsock.send(packet);
  packet = vsock.header(VsockOp::ReadWrite, {.host = 52, .guest = kGuestPort});
  packet.length = 100;
  vsock.send(packet, "fewer");
  CHECK(vsock.sent().empty());
  CHECK(vsock.counter("dropped") == 2);
}

TEST_CASE("virtio-vsock sends no more than the guest has room for") {
  Vsock vsock;
  vsock.room = 10;
  vsock.start();
  const auto [socket, ports] = vsock.open_from_host();
  vsock.write(socket, "0123456789abcdef");
  auto packets = vsock.sent();
  REQUIRE(packets.size() == 2);
  CHECK(packets[0].data == "0123456789");
  CHECK(packets[1].header.op == VsockOp::CreditRequest);
  CHECK(vsock.sent().empty());
  vsock.forwarded = 4;
  vsock.send(VsockOp::CreditUpdate, ports);
  packets = vsock.sent();
  REQUIRE(!packets.empty());
  CHECK(packets[0].data == "abcd");
  vsock.forwarded = 14;
  vsock.send(VsockOp::CreditUpdate, ports);
  CHECK(vsock.sent().front().data == "ef");
}

TEST_CASE("virtio-vsock waits for nothing while the guest has no room or no buffers") {
  Vsock vsock;
  vsock.room = 4;
  vsock.start();
  const auto [socket, ports] = vsock.open_from_host();
  const std::size_t before = vsock.loop.watches();
  vsock.write(socket, "more than four");
  static_cast<void>(vsock.sent());
  CHECK(vsock.loop.watches() == before - 1);  // a readable socket would wake us again and again
  CHECK_FALSE(vsock.loop.run_once());
}

TEST_CASE("virtio-vsock tells the guest of room again when the host has read") {
  Vsock vsock;
  vsock.start();
  const Service service(vsock, 52);
  const std::string block(16 << 10, 'b');
  vsock.send(VsockOp::ReadWrite, service.ports, block);
  CHECK(Vsock::read(service.socket).size() == block.size());
  const VsockHeader update = vsock.sent_one().header;
  CHECK(update.op == VsockOp::CreditUpdate);
  CHECK(update.fwd_cnt == 16 << 10);
}

TEST_CASE(
    "virtio-vsock keeps up to 64 KiB that the host does not read, in order, and resets a guest that sends "
    "more") {
  Vsock vsock;
  vsock.start();
  const Service service(vsock, 52);
  std::string all;
  std::uint32_t told = 0;
  // As a guest that respects the credit: the kernel's buffer first, then ours.
  for (unsigned i = 0; i < 1000; ++i) {
    if (all.size() - told + 4096 > VsockConnection::kBuffer) break;
    const std::string block(4096, static_cast<char>('a' + i % 26));
    vsock.send(VsockOp::ReadWrite, service.ports, block);
    all += block;
    for (const Packet& packet : vsock.sent()) told = packet.header.fwd_cnt;
  }
  CHECK(all.size() > VsockConnection::kBuffer);
  std::string got;
  while (got.size() < all.size()) {
    got += Vsock::read(service.socket);
    vsock.loop.run_ready();
  }
  CHECK(got == all);
  for (const Packet& packet : vsock.sent()) told = packet.header.fwd_cnt;
  CHECK(all.size() - told < VsockConnection::kBuffer / 4);

  VsockHeader too_much = vsock.header(VsockOp::ReadWrite, service.ports);
  too_much.length = VsockConnection::kBuffer + 1;
  vsock.send(too_much, std::string(VsockConnection::kBuffer + 1, 'x'));
  CHECK(vsock.sent_one().header.op == VsockOp::Reset);
  CHECK(Vsock::read(service.socket) == "<end>");
}

TEST_CASE("virtio-vsock: a host program that ends its output only still gets the guest's") {
  Vsock vsock;
  vsock.start();
  const auto [socket, ports] = vsock.open_from_host();
  vsock.write(socket, "the last");
  REQUIRE(::shutdown(socket.get(), SHUT_WR) == 0);
  const auto packets = vsock.sent();
  REQUIRE(packets.size() == 2);
  CHECK(packets[0].data == "the last");
  CHECK(packets[1].header.op == VsockOp::Shutdown);
  CHECK(packets[1].header.flags == kVsockShutdownSend);
  vsock.send(VsockOp::ReadWrite, ports, "still here");
  CHECK(Vsock::read(socket) == "still here");
}

TEST_CASE("virtio-vsock: a host program that closes ends both directions") {
  Vsock vsock;
  vsock.start();
  auto [socket, ports] = vsock.open_from_host();
  socket.reset();
  const VsockHeader shutdown = vsock.sent_one().header;
  CHECK(shutdown.op == VsockOp::Shutdown);
  CHECK(shutdown.flags == (kVsockShutdownSend | kVsockShutdownReceive));
  vsock.send(VsockOp::Reset, ports);
  CHECK(vsock.counter("connections") == 0);
}

TEST_CASE("virtio-vsock: a guest that ends its output only still gets the host's") {
  Vsock vsock;
  vsock.start();
  const auto [socket, ports] = vsock.open_from_host();
  vsock.send(VsockOp::ReadWrite, ports, "the last");
  vsock.shut_down(ports, kVsockShutdownSend);
  CHECK(Vsock::read(socket) == "the last");
  CHECK(Vsock::read(socket) == "<end>");
  vsock.write(socket, "answer");
  CHECK(vsock.sent_one().data == "answer");
  vsock.send(VsockOp::ReadWrite, ports, "against its word");
  CHECK(vsock.sent_one().header.op == VsockOp::Reset);
}

TEST_CASE("virtio-vsock: a guest that closes is answered, and the host gets all that it sent") {
  Vsock vsock;
  vsock.start();
  const auto [socket, ports] = vsock.open_from_host();
  vsock.send(VsockOp::ReadWrite, ports, "the last");
  vsock.shut_down(ports, kVsockShutdownSend | kVsockShutdownReceive);
  CHECK(vsock.sent_one().header.op == VsockOp::Reset);
  CHECK(Vsock::read(socket) == "the last");
  CHECK(Vsock::read(socket) == "<end>");
  CHECK(vsock.counter("connections") == 0);
}

TEST_CASE("virtio-vsock resets a stream that is asked for twice, and sends only one RST") {
  Vsock vsock;
  vsock.start();
  const Service service(vsock, 52);
  vsock.send(VsockOp::Request, service.ports);
  CHECK(vsock.sent_one().header.op == VsockOp::Reset);
  CHECK(Vsock::read(service.socket) == "<end>");
}

TEST_CASE("virtio-vsock loses no RST while the guest has no buffers: its packets wait") {
  Vsock vsock;
  vsock.start(0);
  constexpr unsigned kPackets = 400;
  for (unsigned i = 0; i < kPackets; i += 200) {
    for (unsigned j = 0; j < 200; ++j) {
      const VsockHeader packet = vsock.header(VsockOp::Request, {.host = 99, .guest = i + j});
      vsock.running.driver(VirtioVsock::kTransmit)
          .add({{vsock.guest.place(packet.bytes()), VsockHeader::kSize}}, {});
    }
    vsock.running.notify(VirtioVsock::kTransmit);
    static_cast<void>(vsock.running.driver(VirtioVsock::kTransmit).take_used());
  }
  CHECK(vsock.counter("strays") == VsockMuxer::kMaxStrays);
  for (unsigned i = 0; i < 64; ++i) vsock.offer_buffer(64);
  vsock.running.notify(VirtioVsock::kReceive);
  CHECK(vsock.sent().size() == kPackets);
}

TEST_CASE("virtio-vsock pauses and goes on with its streams") {
  Vsock vsock;
  vsock.start();
  const auto [socket, ports] = vsock.open_from_host();
  vsock.running.stop();
  CHECK(vsock.loop.watches() == 0);
  REQUIRE(::write(socket.get(), "meanwhile", 9) == 9);
  vsock.running.start();
  CHECK(vsock.sent_one().data == "meanwhile");
}

TEST_CASE("virtio-vsock bounds the guest's streams") {
  Vsock vsock;
  vsock.start(64);
  const auto listener = *UnixListener::open(vsock.path + "_52", 4096);
  unsigned answered = 0;
  for (std::uint32_t i = 0; i < VsockMuxer::kMaxConnections; ++i) {
    vsock.send(VsockOp::Request, {.host = 52, .guest = i});
    for (const Packet& packet : vsock.sent()) answered += packet.header.op == VsockOp::Response ? 1U : 0U;
    // Two descriptors for each stream would be more than some hosts allow.
    UniqueFd(::accept4(listener->fd(), nullptr, nullptr, SOCK_CLOEXEC)).reset();
    if (answered != i + 1) break;  // out of descriptors: as good a bound
  }
  CHECK(answered > 400);
  vsock.send(VsockOp::Request, {.host = 53, .guest = kGuestPort});
  const auto packets = vsock.sent();
  CHECK(std::any_of(packets.begin(), packets.end(), [](const Packet& packet) {
    return packet.header.op == VsockOp::Reset && packet.header.dst_port == kGuestPort;
  }));
}

TEST_CASE("virtio-vsock after a restore: first the event, then nothing until the driver has seen it") {
  Vsock vsock;
  vsock.start();
  const auto [socket, ports] = vsock.open_from_host();
  vsock.running.stop();
  const auto saved = vsock.device.save();
  REQUIRE(saved);

  for (const bool event_index : {false, true}) {
    CAPTURE(event_index);
    Vsock cold(kCid + 1, event_index ? ~std::uint64_t{0} : ~devices::kVirtioEventIdx);
    REQUIRE(cold.device.restore(*saved));
    const UniqueFd early = cold.connect();
    REQUIRE(::write(early.get(), "CONNECT 4660\n", 13) == 13);
    cold.start();
    const auto events = cold.running.driver(VirtioVsock::kEvent).take_used();
    REQUIRE(events == std::vector<Used>{{0, 4}});
    CHECK(cold.sent().empty());
    // The driver acts, and puts the buffer up again.
    cold.offer_event_buffer();
    if (event_index) CHECK(cold.running.driver(VirtioVsock::kEvent).avail_event() == 4);
    cold.running.notify(VirtioVsock::kEvent);
    cold.loop.run_ready();
    const VsockHeader request = cold.sent_one().header;
    CHECK(request.op == VsockOp::Request);
    CHECK(request.dst_cid == kCid + 1);
    CHECK(request.src_port == ports.host + 1);  // not a port that the guest may still know
    CHECK(cold.running.driver(VirtioVsock::kEvent).take_used().empty());
  }
}

TEST_CASE("virtio-vsock saves an event that has not been delivered") {
  Vsock vsock;
  REQUIRE(vsock.device.restore(*vsock.device.save()));
  const auto saved = vsock.device.save();
  state::VirtioVsock message;
  REQUIRE(unpack_state(*saved, "vsock", 1, message));
  CHECK(message.reset_pending());
  Vsock cold;
  REQUIRE(cold.device.restore(*saved));
  CHECK(cold.device.save()->value == saved->value);
}

TEST_CASE("virtio-vsock refuses a next port that is not the host's") {
  Vsock vsock;
  state::VirtioVsock message;
  message.set_next_port(1024);
  CHECK_FALSE(vsock.device.restore(pack_state(message)));
}

TEST_CASE("virtio-vsock forgets all streams at a reset") {
  Vsock vsock;
  vsock.start();
  const auto [socket, ports] = vsock.open_from_host();
  vsock.running.stop();
  vsock.device.reset();
  CHECK(Vsock::read(socket) == "<end>");
  CHECK(vsock.counter("connections") == 0);
  vsock.running.start();
  CHECK(vsock.sent().empty());
}
