#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "devices/virtio/net.h"
#include "devices/virtio/net_protocol.h"
#include "proto/state.pb.h"
#include "tests/unit/support/fake_clock.h"
#include "tests/unit/support/fake_device_events.h"
#include "tests/unit/support/fake_net_backend.h"
#include "tests/unit/support/virtio_device.h"

using namespace vmmd;
using namespace vmmd::devices;
using namespace vmmd::testing;

namespace {

NetDevice::Config config_of(unsigned pairs) {
  NetDevice::Config config;
  config.id = "lan";
  config.mac = {0x02, 0x13, 0x24, 0x35, 0x46, 0x57};
  config.mtu = 0x1234;
  config.pairs = pairs;
  return config;
}

struct Net {
  explicit Net(unsigned pairs = 1, std::uint64_t features = RunningDevice::kAllFeatures & ~kVirtioEventIdx)
      : Net(config_of(pairs), features) {}
  explicit Net(const NetDevice::Config& config,
               std::uint64_t features = RunningDevice::kAllFeatures & ~kVirtioEventIdx)
      : backend(config.pairs),
        device(config, backend, loop, events),
        running(device, loop, guest, features) {}

  static std::string frame(std::size_t size = 60) {
    std::string text;
    for (std::size_t i = 0; i < size; ++i) text.push_back(static_cast<char>('!' + i % 90));
    return text;
  }
  void send(const std::string& frame, unsigned pair = 0) {
    const auto header = guest.place(std::string(kNetHeaderSize, '\0'));
    const auto data = guest.place(frame);
    running.driver(2 * pair + 1)
        .add({{header, kNetHeaderSize}, {data, static_cast<std::uint32_t>(frame.size())}}, {});
    running.notify(2 * pair + 1);
  }
  /// The answer of the control queue.
  std::uint8_t control(std::string_view command, unsigned queue) {
    const auto data = guest.place(command);
    const auto answer = guest.place("\xee");
    running.driver(queue).add({{data, static_cast<std::uint32_t>(command.size())}}, {{answer, 1}});
    running.notify(queue);
    CHECK(running.driver(queue).take_used().size() == 1);
    return guest.value<std::uint8_t>(answer);
  }
  void resume_loop() {
    loop.run_until([&] { return backend.incoming[0].empty(); });
    loop.run_ready();
  }

  FakeEventLoop loop;
  FakeDeviceEvents events;
  FakeGuest guest{16 << 20};
  FakeNetBackend backend;
  NetDevice device;
  RunningDevice running;
};

using namespace std::string_literals;

}  // namespace

TEST_CASE("virtio-net: the configuration has MAC, link, pairs and MTU") {
  Net net(3);
  CHECK(net.device.read_config(0, 4) == 0x35241302);
  CHECK(net.device.read_config(4, 2) == 0x5746);
  CHECK(net.device.read_config(6, 2) == kNetStatusLinkUp);
  CHECK(net.device.read_config(8, 2) == 3);
  CHECK(net.device.read_config(10, 2) == 0x1234);
  CHECK(net.device.read_config(12, 4) == 0);
}

TEST_CASE("virtio-net: offers offloads as options and backend have them") {
  FakeEventLoop loop;
  FakeDeviceEvents events;
  FakeNetBackend plain(1, 0);
  auto config = config_of(1);
  CHECK((NetDevice(config, plain, loop, events).features() & (kNetCsumOffloads | kNetCtrlGuestOffloads)) ==
        0);
  FakeNetBackend able(1);
  config.offload_ufo = false;
  const auto features = NetDevice(config, able, loop, events).features();
  CHECK((features & kNetTsoOffloads) == kNetTsoOffloads);
  CHECK((features & kNetUfoOffloads) == 0);
  CHECK((features & kNetMultiQueue) == 0);
  config.offload_csum = false;
  CHECK((NetDevice(config, able, loop, events).features() & kNetTsoOffloads) == 0);
}

TEST_CASE("virtio-net: a frame goes out whole with its header") {
  Net net;
  net.running.start();
  net.send(Net::frame());
  REQUIRE(net.backend.sent.size() == 1);
  CHECK(net.backend.sent[0].second == std::string(kNetHeaderSize, '\0') + Net::frame());
  CHECK(net.running.driver(1).take_used().size() == 1);
  CHECK(net.running.transport.queue_interrupts[1] == 1);
}

TEST_CASE("virtio-net: what is no frame is dropped, and the queue goes on") {
  Net net;
  net.running.start();
  net.send("short");
  net.send(Net::frame());
  CHECK(net.backend.sent.size() == 1);
  CHECK(net.device.counters().at("tx_dropped") == 1);
  CHECK(net.running.driver(1).take_used().size() == 2);
}

TEST_CASE("virtio-net: a backend without room gets the frame later, once") {
  Net net;
  net.running.start();
  net.backend.send_answer = NetIo::Again;
  net.send(Net::frame());
  CHECK(net.backend.sent.size() == 1);  // an eventfd is always writable
  CHECK(net.running.driver(1).take_used().size() == 1);
  CHECK(net.device.counters().at("tx_frames") == 1);
}

TEST_CASE("virtio-net: many frames in one go leave in turns") {
  Net net;
  net.running.start();
  const auto data = net.guest.place(std::string(kNetHeaderSize, '\0') + Net::frame());
  for (int i = 0; i < 200; ++i) net.running.driver(1).add({{data, kNetHeaderSize + 60}}, {});
  net.device.notify(1);
  CHECK(net.backend.sent.size() == kNetTurnFrames);
  bool stopped = false;
  net.device.stop([&] { stopped = true; });
  CHECK_FALSE(stopped);  // the next turn waits on the loop
  net.loop.run_ready();
  CHECK(stopped);
  CHECK(net.backend.sent.size() == kNetTurnFrames);
  net.running.start();
  CHECK(net.backend.sent.size() == 200);
}

TEST_CASE("virtio-net: a frame comes in with the number of its buffers") {
  Net net(1, RunningDevice::kAllFeatures & ~kVirtioEventIdx & ~kNetMergeBuffers);
  net.running.start();
  CHECK(net.loop.watches() == 0);  // no buffers: nobody listens
  net.backend.arrive(Net::frame());
  const auto buffer = net.guest.allocate(2048);
  net.running.driver(0).add({}, {{buffer, 2048}});
  net.running.notify(0);
  const auto used = net.running.driver(0).take_used();
  REQUIRE(used.size() == 1);
  CHECK(used[0].written == kNetHeaderSize + 60);
  CHECK(net.guest.value<std::uint16_t>(GuestAddress(buffer.value + kNetNumBuffersOffset)) == 1);
  CHECK(net.guest.bytes(GuestAddress(buffer.value + kNetHeaderSize), 60) == Net::frame());
  CHECK(net.guest.is_dirty(buffer, kNetHeaderSize + 60));
  CHECK(net.loop.watches() == 0);
}

TEST_CASE("virtio-net: a frame that does not fit is lost, the buffer is not") {
  Net net(1, RunningDevice::kAllFeatures & ~kVirtioEventIdx & ~kNetMergeBuffers);
  net.running.start();
  const auto buffer = net.guest.allocate(100);
  net.running.driver(0).add({}, {{buffer, 100}});
  net.running.notify(0);
  net.backend.arrive(Net::frame(89));
  net.backend.arrive(Net::frame(88));
  net.resume_loop();
  CHECK(net.device.counters().at("rx_dropped") == 1);
  const auto used = net.running.driver(0).take_used();
  REQUIRE(used.size() == 1);
  CHECK(used[0].written == 100);
}

TEST_CASE("virtio-net: a long frame is merged from several buffers") {
  Net net;
  net.running.start();
  std::vector<GuestAddress> buffers;
  for (int i = 0; i < 60; ++i) {
    buffers.push_back(net.guest.allocate(1536));
    net.running.driver(0).add({}, {{buffers.back(), 1536}});
  }
  net.running.notify(0);
  net.backend.arrive(Net::frame(4000));
  net.resume_loop();
  const auto used = net.running.driver(0).take_used();
  REQUIRE(used.size() == 3);
  CHECK(used[2].written == kNetHeaderSize + 4000 - 2 * 1536);
  CHECK(net.guest.value<std::uint16_t>(GuestAddress(buffers[0].value + kNetNumBuffersOffset)) == 3);
  std::string whole;
  for (std::size_t i = 0; i < 3; ++i) whole += net.guest.bytes(buffers[i], used[i].written);
  CHECK(whole.substr(kNetHeaderSize) == Net::frame(4000));
}

TEST_CASE("virtio-net: buffers held ready are given back when the device stops") {
  Net net;
  net.running.start();
  for (int i = 0; i < 60; ++i) net.running.driver(0).add({}, {{net.guest.allocate(1536), 1536}});
  net.running.notify(0);
  CHECK(net.running.queue(0).in_flight() > 0);
  net.backend.arrive(Net::frame());
  net.resume_loop();
  bool stopped = false;
  net.device.stop([&] { stopped = true; });
  CHECK(stopped);
  CHECK(net.running.queue(0).in_flight() == 0);
  CHECK(net.running.queue(0).state().next_avail == 1);
  CHECK(net.loop.watches() == 0);
  net.running.start();
  net.backend.arrive(Net::frame());
  net.resume_loop();
  CHECK(net.running.driver(0).take_used().size() == 2);
}

TEST_CASE("virtio-net: a small ring gets frames with what room it has") {
  auto config = config_of(1);
  config.queue_size = 8;
  Net net(config);
  net.running.start();
  for (int i = 0; i < 4; ++i) net.running.driver(0).add({}, {{net.guest.allocate(1600), 1600}});
  net.running.notify(0);
  net.backend.arrive(Net::frame());
  net.resume_loop();
  CHECK(net.running.driver(0).take_used().size() == 1);
}

TEST_CASE("virtio-net: a receive buffer that cannot be written needs a reset") {
  Net net;
  net.running.start();
  net.running.driver(0).add({{net.guest.allocate(2048), 2048}}, {});
  net.running.notify(0);
  CHECK(net.running.transport.reasons.size() == 1);
  net.send(Net::frame());
  CHECK(net.backend.sent.size() == 1);
}

TEST_CASE("virtio-net: pairs come into use when the driver says so") {
  Net net(2);
  net.running.start();
  CHECK(net.backend.active_pairs == 1);
  net.send(Net::frame(), 1);
  CHECK(net.backend.sent.empty());
  CHECK(net.control("\x04\x00\x02\x00"s, 4) == kNetCtrlOk);
  CHECK(net.backend.active_pairs == 2);
  REQUIRE(net.backend.sent.size() == 1);
  CHECK(net.backend.sent[0].first == 1);
  CHECK(net.control("\x04\x00\x03\x00"s, 4) == kNetCtrlError);
  CHECK(net.control("\x04\x00\x00\x00"s, 4) == kNetCtrlError);
  CHECK(net.control("\x04\x00\x01"s, 4) == kNetCtrlError);
  CHECK(net.backend.active_pairs == 2);
}

TEST_CASE("virtio-net: without MQ the control queue is queue 2") {
  Net net(2, RunningDevice::kAllFeatures & ~kVirtioEventIdx & ~kNetMultiQueue);
  net.running.start();
  CHECK(net.control("\x01\x00\x01"s, 2) == kNetCtrlError);  // MAC filters: not here
  CHECK(net.device.counters().at("control_refused") == 1);
}

TEST_CASE("virtio-net: guest offloads follow features, then the driver's command") {
  Net net(1, RunningDevice::kAllFeatures & ~kVirtioEventIdx & ~kNetGuestTso6);
  net.running.start();
  CHECK(net.backend.guest_offloads == (kNetGuestOffloads & ~kNetGuestTso6));
  CHECK(net.control("\x05\x00\x02\x00\x00\x00\x00\x00\x00\x00"s, 2) == kNetCtrlOk);
  CHECK(net.backend.guest_offloads == kNetGuestCsum);
  CHECK(net.control("\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"s, 2) == kNetCtrlError);
  CHECK(net.backend.guest_offloads == kNetGuestCsum);
}

TEST_CASE("virtio-net: a rate limit holds frames back until its time has come") {
  FakeClock clock;
  FakeEventLoop loop;
  FakeDeviceEvents events;
  FakeGuest guest;
  FakeNetBackend backend;
  auto config = config_of(1);
  RateLimiter::Config limit;
  limit.ops = TokenBucketConfig{.size = 2, .one_time_burst = 0, .refill_ns = 1'000'000};
  config.tx_limiter = std::make_shared<RateLimiter>(limit, clock);
  NetDevice device(config, backend, loop, events);
  RunningDevice running(device, loop, guest);
  running.start();
  const auto data = guest.place(std::string(kNetHeaderSize, '\0') + Net::frame());
  for (int i = 0; i < 3; ++i) running.driver(1).add({{data, kNetHeaderSize + 60}}, {});
  running.notify(1);
  CHECK(backend.sent.size() == 2);
  clock.advance(500'000);
  loop.run_ready();
  CHECK(backend.sent.size() == 3);
}

TEST_CASE("virtio-net: a lost backend takes the link down and leaves the guest running") {
  Net net;
  net.running.start();
  for (int i = 0; i < 60; ++i) net.running.driver(0).add({}, {{net.guest.allocate(1536), 1536}});
  net.running.notify(0);
  net.backend.fail("the tap is gone");
  net.loop.run_ready();
  REQUIRE(net.events.failures.size() == 1);
  CHECK(net.events.failures[0] == "net:lan: the tap is gone");
  CHECK(net.device.read_config(6, 2) == 0);
  CHECK(net.running.transport.config_interrupts == 1);
  CHECK(net.loop.watches() == 0);
  net.send(Net::frame());
  CHECK(net.running.driver(1).take_used().size() == 1);
  CHECK(net.device.counters().at("tx_dropped") == 1);
  CHECK(net.device.counters().at("backend_failures") == 1);
  CHECK(net.events.failures.size() == 1);
  net.running.stop();
  CHECK(net.device.save().has_value());
}

TEST_CASE("virtio-net: a cold device takes over every field and announces itself") {
  state::Net message;
  message.set_active_pairs(2);
  message.set_guest_offloads(kNetGuestCsum | kNetGuestTso4);
  message.set_announce(true);
  const UnitState saved = pack_state(message);
  Net net(3);
  REQUIRE(net.device.restore(saved).has_value());
  CHECK(net.device.save()->value == saved.value);
  CHECK(net.device.read_config(6, 2) == (kNetStatusLinkUp | kNetStatusAnnounce));
  net.running.start();
  CHECK(net.backend.active_pairs == 2);
  CHECK(net.backend.guest_offloads == (kNetGuestCsum | kNetGuestTso4));
  CHECK(net.running.transport.config_interrupts == 1);
  CHECK(net.control("\x03\x00"s, 6) == kNetCtrlOk);
  CHECK(net.device.read_config(6, 2) == kNetStatusLinkUp);
  net.running.stop();
  net.running.start();
  CHECK(net.running.transport.config_interrupts == 1);  // a pause is no move
}

TEST_CASE("virtio-net: for a driver that cannot announce the device does") {
  Net net(1, RunningDevice::kAllFeatures & ~kVirtioEventIdx & ~kNetGuestAnnounce);
  REQUIRE(net.device.restore(*net.device.save()).has_value());
  net.running.start();
  REQUIRE(net.backend.sent.size() == 1);
  const std::string frame = net.backend.sent[0].second.substr(kNetHeaderSize);
  CHECK(frame.size() == 60);
  CHECK(frame.substr(0, 14) == "\xff\xff\xff\xff\xff\xff\x02\x13\x24\x35\x46\x57\x80\x35"s);
}

TEST_CASE("virtio-net: a state that cannot be is refused and changes nothing") {
  Net net(2);
  const std::string before = net.device.save()->value;
  state::Net message;
  message.set_active_pairs(3);
  CHECK_FALSE(net.device.restore(pack_state(message)).has_value());
  message.set_active_pairs(0);
  CHECK_FALSE(net.device.restore(pack_state(message)).has_value());
  message.set_active_pairs(1);
  message.set_guest_offloads(kNetHostTso4);
  CHECK_FALSE(net.device.restore(pack_state(message)).has_value());
  CHECK(net.device.save()->value == before);
}
