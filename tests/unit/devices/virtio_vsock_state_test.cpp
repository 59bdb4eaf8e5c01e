#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include <doctest/doctest.h>

#include "proto/state.pb.h"
#include "tests/unit/devices/vsock_fixture.h"

using namespace vmmd;
using namespace vmmd::devices;
using namespace vmmd::testing;

namespace {

/// The muxer alone, with a guest's packets in plain memory.
struct Muxer {
  explicit Muxer(std::size_t max_connections = VsockMuxer::kMaxConnections)
      : muxer(loop, {listener->fd(), path, max_connections}, [] {}) {
    muxer.resume(kVsockCid, true);
  }
  void send(VsockOp op, VsockPorts ports) {
    auto bytes = VsockHeader{.src_cid = kVsockCid,
                             .dst_cid = kVsockHostCid,
                             .src_port = ports.guest,
                             .dst_port = ports.host,
                             .op = op}
                     .bytes();
    Chain chain;
    chain.readable.push_back({GuestAddress(0), bytes.data(), VsockHeader::kSize});
    CHECK(muxer.receive(chain));
  }
  /// The operation of the next packet for the guest.
  std::optional<VsockOp> next() {
    std::array<std::byte, 256> bytes{};
    Chain chain;
    chain.writable.push_back({GuestAddress(0), bytes.data(), bytes.size()});
    if (!muxer.fill(chain)) return std::nullopt;
    return VsockHeader::parse(std::span(bytes).first<VsockHeader::kSize>()).op;
  }
  UniqueFd connect() {
    auto socket = connect_unix(path);
    REQUIRE(socket);
    REQUIRE(::write(socket->get(), "CONNECT 4660\n", 13) == 13);
    loop.run_ready();
    return std::move(*socket);
  }

  TempDir dir;
  std::string path = dir / "vm.vsock";
  std::unique_ptr<UnixListener> listener = *UnixListener::open(path, 16);
  FakeEventLoop loop;
  VsockMuxer muxer;
};

}  // namespace

TEST_CASE("virtio-vsock keeps nothing of a stream that the guest opens and resets") {
  Muxer vsock;
  const auto service = *UnixListener::open(vsock.path + "_52", 16);
  vsock.send(VsockOp::Request, {.host = 52, .guest = kGuestPort});
  CHECK(vsock.muxer.wants_to_send());
  vsock.send(VsockOp::Reset, {.host = 52, .guest = kGuestPort});
  CHECK_FALSE(vsock.muxer.wants_to_send());
  CHECK(vsock.muxer.counters().connections == 0);
}

TEST_CASE("virtio-vsock: host programs that gave up make room, others are refused") {
  Muxer vsock(2);
  UniqueFd gone = vsock.connect();
  const UniqueFd patient = vsock.connect();
  CHECK(vsock.muxer.counters().connections == 2);
  CHECK(Vsock::read(vsock.connect()) == "<end>");
  CHECK(vsock.muxer.counters().refused == 1);
  gone.reset();
  const UniqueFd next = vsock.connect();
  CHECK(Vsock::read(next).empty());
  CHECK(vsock.muxer.counters().connections == 2);
  CHECK(vsock.next() == VsockOp::Request);
  CHECK(vsock.next() == VsockOp::Request);
  CHECK(vsock.next() == std::nullopt);
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
    Vsock cold(kVsockCid + 1, event_index ? ~std::uint64_t{0} : ~devices::kVirtioEventIdx);
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
    CHECK(request.dst_cid == kVsockCid + 1);
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
