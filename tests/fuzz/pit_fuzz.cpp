#include "devices/chipset/pit.h"
#include "devices/chipset/speaker_port.h"
#include "tests/fuzz/support/device_fuzz.h"

using namespace vmmd;
using namespace vmmd::devices;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  testing::FakeClock clock;
  NoInterruptLine line;
  Pit pit(clock, line);
  Pit cold(clock, line);
  SpeakerPort speaker(clock, pit);
  fuzz::play(input, {{&pit, Pit::kSize}, {&speaker, SpeakerPort::kSize}}, pit, cold, clock,
             [&](fuzz::Input& in) {
               // A channel as drivers set one up, which random bytes seldom do.
               const auto channel = in.take<std::uint8_t>() % 3U;
               pit.write(3, 1, channel << 6 | 0x30U | (in.take<std::uint8_t>() & 0x0fU));
               pit.write(channel, 1, in.take<std::uint8_t>());
               pit.write(channel, 1, in.take<std::uint8_t>());
             });
  return 0;
}
