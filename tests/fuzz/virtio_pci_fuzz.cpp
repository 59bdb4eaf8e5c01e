#include <set>
#include <utility>

#include "devices/pci/pci_root.h"
#include "devices/virtio/pci_transport.h"
#include "tests/fuzz/support/device_fuzz.h"
#include "tests/unit/support/echo_device.h"
#include "tests/unit/support/fake_event_loop.h"
#include "tests/unit/support/fake_interrupt.h"
#include "tests/unit/support/virtio_guest.h"

using namespace vmmd;
using namespace vmmd::devices;

namespace {

constexpr std::uint64_t kWindow = 0x10'0000'0000;
constexpr std::uint64_t kWindowSize = 0x10'0000;
constexpr std::uint64_t kArena = 64 << 10;  // of guest RAM, for rings

struct IoEventTable final : IoEvents {
  Status add(std::uint64_t address, int fd) override {
    if (!there.emplace(address, fd).second) std::abort();
    return {};
  }
  void remove(std::uint64_t address, int fd) override {
    if (there.erase({address, fd}) != 1) std::abort();
  }
  std::set<std::pair<std::uint64_t, int>> there;
};

struct Machine {
  explicit Machine(testing::FakeGuest& guest) {
    pci = std::move(*VirtioPci::create(device, {.memory = &guest.memory(),
                                                .msi = &msi,
                                                .line = &line,
                                                .mmio = &mmio,
                                                .io_events = &io_events,
                                                .windows = {{kWindow, kWindowSize}},
                                                .bar_address = kWindow}));
    if (!root.add_device(1, pci.get())) std::abort();
  }
  ~Machine() {
    pause();
    static_cast<void>(root.remove_device(1));
    pci.reset();
    if (!io_events.there.empty() || pin.level() || !mmio.regions().empty()) std::abort();
  }
  void pause() {
    bool paused = false;
    pci->pause([&paused] { paused = true; });
    device.let_go();
    loop.run_ready();
    if (!paused) std::abort();
  }

  testing::FakeEventLoop loop;
  testing::FakeMsiSink msi;
  testing::FakeInterruptLine pin;
  SharedInterruptLine line{pin};
  Bus mmio{"mmio"};
  IoEventTable io_events;
  PciRoot root;
  testing::EchoDevice device{loop};
  std::unique_ptr<VirtioPci> pci;
};

}  // namespace

// A driver that obeys no rule, a loop that lags behind it, pauses at any moment, and saved states: its own,
// which must come back exactly, and the fuzzer's.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  testing::FakeGuest guest(256 << 10);
  Machine machine(guest);
  machine.pci->resume();
  for (unsigned step = 0; step < 1024 && !input.empty(); ++step) {
    const auto op = input.take<std::uint8_t>();
    const unsigned width = 1U << (op / 16 % 3);
    switch (op % 16) {
      case 0:
      case 1:
      case 2: {  // the common configuration most of all
        const std::uint64_t offset = input.take<std::uint8_t>() % 64;
        machine.mmio.write(kWindow + offset / width * width, width, input.take<std::uint32_t>());
        break;
      }
      case 3: {
        const std::uint64_t at = kWindow + input.take<std::uint32_t>() % kWindowSize;
        machine.mmio.write(at, 1U << (op / 16 % 4), input.take<std::uint64_t>());
        break;
      }
      case 4:
        static_cast<void>(machine.mmio.read(kWindow + input.take<std::uint16_t>(), 1U << (op / 16 % 4)));
        break;
      case 5:
      case 6: {
        const std::uint64_t reg = input.take<std::uint8_t>() / width * width;
        machine.root.ecam().write(std::uint64_t{1} << 15 | reg, width, input.take<std::uint32_t>());
        break;
      }
      case 7: {
        const std::uint64_t reg = input.take<std::uint16_t>() % 4096 / width * width;
        static_cast<void>(machine.root.ecam().read(std::uint64_t{1} << 15 | reg, width));
        break;
      }
      case 8: {  // a driver that knows its part, so that the fuzzer gets that far
        machine.root.ecam().write(std::uint64_t{1} << 15 | kPciCommand, 2, 6);
        for (const auto& [offset, bytes, value] : {std::tuple{20U, 1U, 3U},
                                                   {8U, 4U, 1U},
                                                   {12U, 4U, 1U},
                                                   {20U, 1U, 11U},
                                                   {22U, 2U, 0U},
                                                   {24U, 2U, 8U},
                                                   {32U, 4U, 0x1000U},
                                                   {36U, 4U, 0U},
                                                   {40U, 4U, 0x2000U},
                                                   {44U, 4U, 0U},
                                                   {48U, 4U, 0x3000U},
                                                   {52U, 4U, 0U},
                                                   {28U, 2U, 1U},
                                                   {20U, 1U, 15U}}) {
          machine.mmio.write(kWindow + offset, bytes, value);
        }
        break;
      }
      case 9: {
        const std::string bytes = input.take_bytes(input.take<std::uint8_t>());
        const GuestAddress at(input.take<std::uint16_t>() % (kArena - 256));
        static_cast<void>(guest.memory().write(at, std::as_bytes(std::span(bytes))));
        break;
      }
      case 10:
      case 11:
        machine.loop.run_once();
        break;
      case 12:
        machine.device.hold = true;
        break;
      case 13:
        machine.device.let_go();
        break;
      case 14: {  // pause, save, restore elsewhere
        machine.pause();
        const auto state = machine.pci->save();
        if (!state) std::abort();
        Machine cold(guest);
        if (!cold.pci->restore(*state) || cold.pci->save()->value != state->value) std::abort();
        if (op / 16 % 4 == 0) machine.pci->reset();
        machine.pci->resume();
        break;
      }
      default: {
        machine.pause();
        auto state = *machine.pci->save();
        const std::string before = state.value;
        state.value = input.take_bytes(input.take<std::uint8_t>());
        if (!machine.pci->restore(state) && machine.pci->save()->value != before) std::abort();
        machine.pci->resume();
      }
    }
  }
  return 0;
}
