#include <poll.h>
#include <sys/socket.h>

#include <string>

#include <doctest/doctest.h>

#include "tests/unit/devices/vsock_fixture.h"

using namespace vmmd;
using namespace vmmd::devices;
using namespace vmmd::testing;

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
    CHECK(answer.dst_cid == kVsockCid);
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
  packet.src_cid = kVsockCid + 1;
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

TEST_CASE("virtio-vsock: a host program that is gone before it has read ends both directions") {
  Vsock vsock;
  vsock.start();
  Service service(vsock, 52);
  const std::size_t idle = vsock.loop.watches();
  std::uint32_t told = 0;
  for (std::size_t sent = 0; sent - told + 4096 <= VsockConnection::kBuffer; sent += 4096) {
    vsock.send(VsockOp::ReadWrite, service.ports, std::string(4096, 'x'));
    for (const Packet& packet : vsock.sent()) told = packet.header.fwd_cnt;
  }
  CHECK(vsock.loop.watches() == idle + 1);  // for room in the socket
  service.socket.reset();
  vsock.loop.run_ready();
  const auto packets = vsock.sent();
  REQUIRE(!packets.empty());
  CHECK(packets.back().header.op == VsockOp::Reset);
  CHECK(vsock.counter("connections") == 0);
  CHECK(vsock.loop.watches() == 1);  // the listener's
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
