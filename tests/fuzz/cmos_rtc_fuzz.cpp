#include "devices/chipset/cmos_rtc.h"
#include "tests/fuzz/support/device_fuzz.h"

using namespace vmmd;
using namespace vmmd::devices;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  testing::FakeClock clock;
  NoInterruptLine line;
  CmosRtc rtc(clock, line, {.ram_below_4g = 1ULL << 30, .ram_above_4g = 5ULL << 30});
  CmosRtc cold(clock, line, {});
  fuzz::play(input, {{&rtc, CmosRtc::kSize}}, rtc, cold, clock, [&](fuzz::Input& in) {
    const auto what = in.take<std::uint8_t>();
    if (what % 4 == 0) {
      rtc.resync();
    } else if (what % 4 == 1) {
      // Any wall clock that has nanoseconds to spare for the rest of the run.
      clock.set_realtime_ns(in.take<std::int64_t>() / 2);
    } else {
      rtc.write(0, 1, what / 4);
      rtc.write(1, 1, in.take<std::uint8_t>());
    }
  });
  return 0;
}
