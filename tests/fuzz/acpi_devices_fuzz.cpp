#include <array>
#include <vector>

#include "devices/chipset/acpi_pm_timer.h"
#include "devices/chipset/acpi_power.h"
#include "devices/chipset/generic_event_device.h"
#include "devices/chipset/vmgenid.h"
#include "tests/fuzz/support/device_fuzz.h"
#include "tests/unit/support/fake_power.h"

using namespace vmmd;
using namespace vmmd::devices;

// The first byte says which of the small ACPI devices the rest is for.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  testing::FakeClock clock;
  testing::FakePowerSink sink;
  NoInterruptLine line;
  GenericEventDevice ged(line);
  switch (input.take<std::uint8_t>() % 4) {
    case 0: {
      AcpiPower power(sink, {});
      AcpiPower cold(sink, {});
      fuzz::play(input, {{&power, AcpiPower::kSize}}, power, cold, clock, [](fuzz::Input&) {});
      break;
    }
    case 1: {
      AcpiPmTimer timer(clock);
      AcpiPmTimer cold(clock);
      fuzz::play(input, {{&timer, AcpiPmTimer::kSize}}, timer, cold, clock,
                 [&](fuzz::Input& in) { clock.set_monotonic_ns(in.take<std::uint64_t>()); });
      break;
    }
    case 2: {
      GenericEventDevice cold(line);
      fuzz::play(input, {{&ged, GenericEventDevice::kSize}}, ged, cold, clock, [&](fuzz::Input& in) {
        ged.notify(static_cast<GedEvent>(1U << in.take<std::uint8_t>() % 4));
      });
      break;
    }
    default: {
      std::vector<std::byte> ram(0x1000);
      const GuestMemory memory({{GuestAddress(0x1000), ram.size(), ram.data()}});
      VmGenId vmgenid(memory, ged);
      VmGenId cold(memory, ged);
      fuzz::play(input, {{&ged, GenericEventDevice::kSize}}, vmgenid, cold, clock, [&](fuzz::Input& in) {
        VmGenId::Id id{};
        id.fill(in.take<std::uint8_t>());
        if (in.take<std::uint8_t>() % 2 == 0) {
          static_cast<void>(vmgenid.set_id(id).has_value());
        } else {
          static_cast<void>(vmgenid.place(GuestAddress(in.take<std::uint16_t>()), id).has_value());
        }
      });
      break;
    }
  }
  return 0;
}
