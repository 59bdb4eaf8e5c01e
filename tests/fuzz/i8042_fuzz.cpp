#include "devices/chipset/i8042.h"
#include "tests/fuzz/support/device_fuzz.h"
#include "tests/unit/support/fake_power.h"

using namespace vmmd;
using namespace vmmd::devices;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  testing::FakeClock clock;
  testing::FakePowerSink power;
  NoInterruptLine line;
  InterruptLine* keyboard = input.take<std::uint8_t>() % 2 == 0 ? &line : nullptr;
  I8042 controller(power, keyboard);
  I8042 cold(power, keyboard);
  fuzz::play(input, {{&controller.data(), 1}, {&controller.command(), 1}}, controller, cold, clock,
             [&](fuzz::Input& in) { controller.press(in.take_bytes(in.take<std::uint8_t>() % 8)); });
  return 0;
}
