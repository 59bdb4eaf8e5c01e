#include <cstdlib>

#include "devices/virtio/queue.h"
#include "tests/fuzz/support/device_fuzz.h"
#include "tests/unit/support/virtio_guest.h"

using namespace vmmd;
using namespace vmmd::devices;

// The guest's memory is the fuzzer's: descriptors, rings and tables in one page that the device serves.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  constexpr std::uint64_t kStart = testing::FakeGuest::kStart;
  constexpr std::size_t kRam = 8192;
  testing::FakeGuest guest(kRam);
  const auto flags = input.take<std::uint8_t>();
  Queue::State state;
  state.size = static_cast<std::uint16_t>(1U << (flags >> 4));
  state.descriptors = GuestAddress(kStart + input.take<std::uint16_t>() % kRam / 16 * 16);
  state.avail = GuestAddress(kStart + input.take<std::uint16_t>() % kRam / 2 * 2);
  state.used = GuestAddress(kStart + input.take<std::uint16_t>() % kRam / 4 * 4);
  state.next_avail = state.next_used = input.take<std::uint16_t>();
  Queue queue;
  if (!queue.start(guest.memory(), state, (flags & 1) != 0, (flags & 2) != 0)) return 0;

  for (unsigned step = 0; step < 256 && !input.empty(); ++step) {
    const auto op = input.take<std::uint8_t>();
    if (op % 2 == 0) {  // the guest writes: where rings and descriptors are likely to be
      const std::uint64_t base =
          op / 2 % 3 == 0 ? state.descriptors.value : (op / 2 % 3 == 1 ? state.avail.value : kStart);
      const std::string bytes = input.take_bytes(input.take<std::uint8_t>() % 32);
      static_cast<void>(guest.memory().write(GuestAddress(base + input.take<std::uint8_t>()),
                                             std::as_bytes(std::span(bytes))));
      continue;
    }
    Chain chain;
    if (queue.enable_notifications()) queue.disable_notifications();
    while (queue.pop(chain)) {
      if (chain.readable.size() + chain.writable.size() > state.size) std::abort();
      std::array<std::byte, 24> some{};
      static_cast<void>(chain.copy_out(op, some));
      static_cast<void>(chain.copy_in(op, some));
      if (op == 255) {
        queue.undo_pop();
        break;
      }
      queue.push(chain, static_cast<std::uint32_t>(chain.writable_size()));
      static_cast<void>(queue.flush());
    }
    if (queue.in_flight() != 0) std::abort();
  }
  return 0;
}
