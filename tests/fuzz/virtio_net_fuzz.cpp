// A hostile driver, frames from the host, saved states and stops in any order: nothing crashes, no chain is
// lost at a stop, and every state that restore() takes saves to the same bytes again.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "devices/virtio/net.h"
#include "tests/fuzz/support/device_fuzz.h"
#include "tests/unit/support/fake_device_events.h"
#include "tests/unit/support/fake_net_backend.h"
#include "tests/unit/support/virtio_device.h"

using namespace vmmd;

namespace {

constexpr std::uint16_t kQueueSize = 8;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::span<const std::uint8_t> rest(data, size);
  const auto next = [&]() -> std::uint8_t {
    if (rest.empty()) return 0;
    const std::uint8_t value = rest.front();
    rest = rest.subspan(1);
    return value;
  };
  const auto next16 = [&] { return static_cast<std::uint16_t>(next() | next() << 8); };
  testing::FakeEventLoop loop;
  testing::FakeGuest guest(1 << 20);
  testing::FakeNetBackend backend(2);
  testing::FakeDeviceEvents events;
  devices::NetDevice::Config config;
  config.id = "fuzz";
  config.pairs = 2;
  config.queue_size = kQueueSize;
  devices::NetDevice device(config, backend, loop, events);
  const std::uint64_t features =
      std::uint64_t{next()} << 10 | 0x7fffULL << 48 | next16() | std::uint64_t{next()} << 16;
  testing::RunningDevice running(device, loop, guest, features);
  running.start();
  bool stopped = false;
  const auto room = guest.allocate(512 << 10);
  for (unsigned steps = 0; !rest.empty() && steps < 2000; ++steps) {
    const std::uint8_t op = next();
    auto& driver = running.driver((op >> 4U) % 5);
    switch (op & 15U) {
      case 0:
      case 1:
      case 2: {
        testing::FakeDriver::Descriptor descriptor{room.value + next16() * 8U, next16(),
                                                   static_cast<std::uint16_t>(next() & 7U), next()};
        if (next() == 7) descriptor.address = ~std::uint64_t{0} - next16();
        if (next() > 128) descriptor.length %= 16;
        driver.set_descriptor(next() % kQueueSize, descriptor);
        break;
      }
      case 3:
      case 4:
      case 5:
        driver.publish(next() % (kQueueSize + 1));
        break;
      case 6:
      case 7:
        if (!stopped) running.notify((op >> 4U) % 5);
        break;
      case 8:
        guest.set(devices::GuestAddress(room.value + next16() * 7U), std::uint64_t{next()} << 16 | next16());
        break;
      case 9:
        if (backend.incoming[op >> 7U].size() < 100) {
          backend.arrive(std::string(14U + next16() % 9000U, 'x'), op >> 7U);
        }
        loop.run_once();
        break;
      case 10:
        backend.send_answer = static_cast<devices::NetIo>(next() % 3);
        break;
      case 11:
        if (next() == 1) backend.fail("fuzzed");
        break;
      case 12:
        if (stopped) break;
        running.stop();
        stopped = true;
        for (unsigned i = 0; i < 5; ++i) {
          if (running.queue(i).in_flight() != 0) std::abort();
        }
        break;
      case 13:
        if (!stopped) break;
        running.stop();
        return 0;
      case 14: {
        if (!stopped) break;
        const std::size_t length = std::min<std::size_t>(next() % 32, rest.size());
        fuzz::restore_bytes(device, {rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(length)});
        rest = rest.subspan(length);
        break;
      }
      default:
        static_cast<void>(device.read_config(next(), 1U << (op >> 6U)));
        static_cast<void>(device.counters());
        break;
    }
  }
  return 0;
}
