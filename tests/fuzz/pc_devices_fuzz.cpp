#include "devices/chipset/acpi_pm1.h"
#include "devices/chipset/debug_port.h"
#include "devices/chipset/dma_page.h"
#include "tests/fuzz/support/device_fuzz.h"
#include "tests/unit/support/fake_power.h"

using namespace vmmd;
using namespace vmmd::devices;

// The first byte says which of a PC's smallest devices the rest is for.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  testing::FakeClock clock;
  switch (input.take<std::uint8_t>() % 3) {
    case 0: {
      testing::FakePowerSink sink;
      NoInterruptLine sci;
      AcpiPm1 pm1(sci, sink, 5);
      AcpiPm1 cold(sci, sink, 5);
      fuzz::play(input, {{&pm1, AcpiPm1::kSize}}, pm1, cold, clock,
                 [&](fuzz::Input&) { pm1.power_button(); });
      break;
    }
    case 1: {
      DmaPage pages;
      DmaPage cold;
      fuzz::play(input, {{&pages, DmaPage::kSize}}, pages, cold, clock, [](fuzz::Input&) {});
      break;
    }
    default: {
      PostCodePort port;
      PostCodePort cold;
      fuzz::play(input, {{&port, 1}}, port, cold, clock, [](fuzz::Input&) {});
      break;
    }
  }
  return 0;
}
