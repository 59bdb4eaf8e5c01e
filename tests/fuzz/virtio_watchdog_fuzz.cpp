#include "devices/virtio/watchdog.h"
#include "tests/fuzz/support/virtio_fuzz.h"
#include "tests/unit/support/fake_clock.h"
#include "tests/unit/support/fake_device_events.h"
#include "tests/unit/support/fake_power.h"

using namespace vmmd;
using namespace vmmd::devices;

// Any pings at any time. No guest is reset twice for one timeout.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  testing::FakeClock clock;
  testing::FakeEventLoop loop;
  testing::FakeGuest guest(256 << 10);
  testing::FakePowerSink power;
  testing::FakeDeviceEvents events;
  VirtioWatchdog device(loop, clock, power, events);
  VirtioWatchdog cold(loop, clock, power, events);
  fuzz::play_virtio(input, device, cold, loop, guest, [&](fuzz::Input& more) {
    clock.advance(std::uint64_t{more.take<std::uint16_t>()} << 20);
    if (power.resets != events.expirations.size()) std::abort();
  });
  return 0;
}
