#include "devices/chipset/ioapic.h"
#include "tests/fuzz/support/device_fuzz.h"

using namespace vmmd;
using namespace vmmd::devices;

namespace {

/// What reaches KVM must be a message that a LAPIC takes.
struct Sink final : MsiSink, IoapicRoutes {
  static void check(MsiMessage message) {
    const unsigned mode = (message.data >> 8) & 7;
    const bool known = mode == 0 || mode == 1 || mode == 2 || mode == 4 || mode == 5;
    if ((message.address & ~0xff00cULL) != 0xfee0'0000 || !known || message.data > 0xffff) std::abort();
    if (mode <= 1 && (message.data & 0xff) < 16) std::abort();
  }
  void signal(MsiMessage message) override { check(message); }
  void set_route(unsigned pin, std::optional<MsiMessage> message) override {
    if (pin >= Ioapic::kPins) std::abort();
    if (message) check(*message);
  }
  void set_routes(std::span<const std::optional<MsiMessage>> messages) override {
    if (messages.size() != Ioapic::kPins) std::abort();
    for (const auto& message : messages) {
      if (message) check(*message);
    }
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  testing::FakeClock clock;
  Sink sink;
  Ioapic ioapic(sink, sink);
  Ioapic cold(sink, sink);
  fuzz::play(input, {{&ioapic, 0x48}}, ioapic, cold, clock, [&](fuzz::Input& in) {
    const auto what = in.take<std::uint8_t>();
    if (what % 2 == 0) {
      ioapic.end_of_interrupt(in.take<std::uint8_t>());
    } else {
      ioapic.line(what / 4 % Ioapic::kPins).set_level((what & 2) != 0);
    }
  });
  return 0;
}
