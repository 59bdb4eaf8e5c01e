#include "devices/pci/pci_root.h"
#include "tests/fuzz/support/device_fuzz.h"

using namespace vmmd;
using namespace vmmd::devices;

namespace {

/// Checks what the root promises to a function.
struct Function final : PciDevice {
  ConfigSpace space{{.vendor_id = 0x1af4, .device_id = 0x1042}};
  [[nodiscard]] std::string_view pci_name() const override { return "function"; }
  static void check(unsigned offset, unsigned width) {
    if ((width != 1 && width != 2 && width != 4) || offset % width != 0 || offset >= ConfigSpace::kSize) {
      std::abort();
    }
  }
  [[nodiscard]] std::uint32_t read_config(unsigned offset, unsigned width) override {
    check(offset, width);
    return space.read(offset, width);
  }
  void write_config(unsigned offset, unsigned width, std::uint32_t value) override {
    check(offset, width);
    space.write(offset, width, value);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  testing::FakeClock clock;
  Function function;
  PciRoot root;
  PciRoot cold;
  // All of bus 0 and a little of bus 1; the whole ECAM would be holes almost everywhere.
  constexpr std::uint64_t kWindow = 0x12'0000;
  fuzz::play(input, {{&root.ports(), PciRoot::kPortsSize}, {&root.ecam(), kWindow}}, root, cold, clock,
             [&](fuzz::Input& in) {
               const auto what = in.take<std::uint8_t>();
               if (what % 2 == 0) {
                 static_cast<void>(root.add_device(what / 2, &function).has_value());
               } else {
                 static_cast<void>(root.remove_device(what / 2).has_value());
               }
             });
  return 0;
}
