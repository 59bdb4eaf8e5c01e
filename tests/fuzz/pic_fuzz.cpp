#include "devices/chipset/pic.h"
#include "tests/fuzz/support/device_fuzz.h"

using namespace vmmd;
using namespace vmmd::devices;

namespace {

struct Intr final : InterruptLine {
  void set_level(bool level) override {
    if (level == high) std::abort();  // only changes are told
    high = level;
  }
  bool high = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  testing::FakeClock clock;
  Intr intr;
  Intr cold_intr;
  Pic pic(intr);
  Pic cold(cold_intr);
  fuzz::play(input, {{&pic.master(), 2}, {&pic.slave(), 2}, {&pic.elcr(), 2}}, pic, cold, clock,
             [&](fuzz::Input& in) {
               const auto what = in.take<std::uint8_t>();
               if (what % 4 == 0) {
                 // The CPU asks where INTR is high; then it is not the master's spurious vector.
                 const bool waiting = intr.high;
                 const auto spurious = pic.counters().at("spurious");
                 pic.acknowledge();
                 if (!waiting && pic.counters().at("spurious") == spurious) std::abort();
               } else {
                 pic.line(what / 4 % Pic::kInputs).set_level(what % 4 == 1);
               }
             });
  return 0;
}
