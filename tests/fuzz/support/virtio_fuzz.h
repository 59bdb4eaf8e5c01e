#pragma once

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "tests/fuzz/support/device_fuzz.h"
#include "tests/unit/support/virtio_device.h"

namespace vmmd::fuzz {

/// Plays driver, transport and snapshot file on one virtio device: chains of any shape and content, broken
/// rings, notifications, pauses, resets, configuration accesses, hostile saved states, its own state into
/// `cold` (which must always work); and `extra(input)` or `extra(input,
/// running)`, which plays the host's end.
///
/// `cold` is a device of its own, never started.
template <class Extra>
void play_virtio(Input& input, devices::VirtioDevice& device, devices::VirtioDevice& cold,
                 testing::FakeEventLoop& loop, testing::FakeGuest& guest, Extra extra) {
  constexpr std::uint32_t kArena = 32 << 10;
  const auto sizes = device.queue_sizes();
  testing::RunningDevice running(device, loop, guest, input.take<std::uint64_t>());
  const devices::GuestAddress arena = guest.allocate(kArena);
  const auto paused = [&](auto what) {
    running.stop();
    what();
    running.start();
  };
  std::vector<std::size_t> in_use(sizes.size());
  running.start();
  for (unsigned step = 0; step < 512 && !input.empty(); ++step) {
    const auto op = input.take<std::uint8_t>();
    const auto index = static_cast<unsigned>(input.take<std::uint8_t>() % sizes.size());
    testing::FakeDriver& driver = running.driver(index);
    switch (op % 16) {
      case 0:
      case 1:
      case 2:
      case 3: {  // a chain of up to eight buffers anywhere in the arena
        if (in_use[index] + 8 > sizes[index]) break;
        std::vector<testing::Buffer> readable;
        std::vector<testing::Buffer> writable;
        const unsigned split = op / 16 % 4;
        for (unsigned i = 0; i < 1U + op / 64; ++i) {
          const std::uint32_t at = input.take<std::uint16_t>() % kArena;
          const std::uint32_t length = std::min<std::uint32_t>(input.take<std::uint16_t>(), kArena - at);
          (i < split ? readable : writable).push_back({devices::GuestAddress(arena.value + at), length});
        }
        const bool indirect = op % 2 != 0 && (running.features() & devices::kVirtioIndirectDesc) != 0;
        if (indirect && step < 256) {
          driver.add_indirect(readable, writable);
          in_use[index] += 1;
        } else {
          driver.add(readable, writable);
          in_use[index] += readable.size() + writable.size();
        }
        break;
      }
      case 4: {
        const std::string bytes = input.take_bytes(input.take<std::uint8_t>());
        const std::uint64_t at = input.take<std::uint16_t>() % (kArena - 256);
        static_cast<void>(
            guest.memory().write(devices::GuestAddress(arena.value + at), std::as_bytes(std::span(bytes))));
        break;
      }
      case 5:
      case 6:
        running.notify(index);
        break;
      case 7:
        paused([] {});
        break;
      case 8:
        static_cast<void>(device.read_config(input.take<std::uint16_t>() % 320, 1U << (op / 16 % 4)));
        break;
      case 9:
        device.write_config(input.take<std::uint16_t>() % 320, 1U << (op / 16 % 4),
                            input.take<std::uint64_t>());
        loop.run_ready();
        break;
      case 10:
        paused([&] {
          const auto state = device.save();
          if (!state || !cold.restore(*state)) std::abort();
          // A restored device may differ in that it was restored; from then on it saves what it is.
          const auto restored = cold.save();
          if (!restored || !cold.restore(*restored) || cold.save()->value != restored->value) std::abort();
        });
        break;
      case 11:
        paused([&] {
          auto state = *device.save();
          const std::string before = state.value;
          state.value = input.take_bytes(input.take<std::uint8_t>());
          if (!device.restore(state) && device.save()->value != before) std::abort();
        });
        break;
      case 12:
        if (op / 16 % 4 == 0) paused([&] { device.reset(); });
        device.stop_queue(index, [] {});
        loop.run_ready();
        device.start_queue(index);
        break;
      case 13:
        if (op / 16 % 8 == 0) driver.publish(input.take<std::uint16_t>());
        break;
      default:
        if constexpr (std::is_invocable_v<Extra, Input&, testing::RunningDevice&>) {
          extra(input, running);
        } else {
          extra(input);
        }
        loop.run_ready();
        break;
    }
    for (const testing::Used& used : driver.take_used()) {
      if (used.head >= sizes[index]) std::abort();
    }
  }
  running.stop();
}

}  // namespace vmmd::fuzz
