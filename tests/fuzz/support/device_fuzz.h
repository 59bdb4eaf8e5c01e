#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "devices/bus.h"
#include "devices/state_unit.h"
#include "tests/unit/support/fake_clock.h"

namespace vmmd::fuzz {

/// The fuzzer's bytes, taken from the front; zeros once they are used up.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}
  [[nodiscard]] bool empty() const { return rest_.empty(); }
  template <class T>
  T take() {
    static_assert(std::is_integral_v<T>);
    T value = 0;
    const std::size_t count = std::min(sizeof(T), rest_.size());
    std::memcpy(&value, rest_.data(), count);
    rest_ = rest_.subspan(count);
    return value;
  }
  std::string take_bytes(std::size_t most) {
    const auto taken = rest_.first(std::min(most, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return {taken.begin(), taken.end()};
  }

 private:
  std::span<const std::uint8_t> rest_;
};

/// Restores what may be anything. Refused, it changes nothing; taken, what is saved then comes back as it is.
inline void restore_bytes(devices::StateUnit& unit, std::string value) {
  auto state = *unit.save();
  const std::string before = std::exchange(state.value, std::move(value));
  if (unit.restore(state)) {
    const auto taken = *unit.save();
    if (!unit.restore(taken) || unit.save()->value != taken.value) std::abort();
  } else if (unit.save()->value != before) {
    std::abort();
  }
}

/// What the guest sees of a device: a port or MMIO region.
struct Region {
  devices::BusDevice* device = nullptr;
  std::uint64_t length = 0;
};

/// Plays guest, clock and snapshot file on one device: reads, writes, advances time, restores hostile bytes,
/// restores its own state into `cold` (which must always work) and does `extra(input)`, the device's own
/// entry points.
template <class Extra>
void play(Input& input, std::initializer_list<Region> regions, devices::StateUnit& unit,
          devices::StateUnit& cold, testing::FakeClock& clock, Extra extra) {
  for (unsigned step = 0; step < 4096 && !input.empty(); ++step) {
    const auto op = input.take<std::uint8_t>();
    const Region& region = regions.begin()[input.take<std::uint8_t>() % regions.size()];
    switch (op % 8) {
      case 0:
      case 1:
      case 2:
      case 3: {
        const unsigned width = 1U << (op / 8 % 4);
        const std::uint64_t offset = input.take<std::uint32_t>() % region.length;
        if (width > region.length - offset) break;  // the bus's business
        if (op % 2 == 0) {
          region.device->read(offset, width);
        } else {
          region.device->write(offset, width, input.take<std::uint64_t>() & devices::all_ones(width));
        }
        break;
      }
      case 4:
        // Up to four seconds: a periodic timer of 8 kHz that nobody answers must not slow the fuzzer down.
        clock.advance(input.take<std::uint32_t>());
        break;
      case 5:
        restore_bytes(unit, input.take_bytes(input.take<std::uint16_t>()));
        break;
      case 6: {
        const auto state = unit.save();
        if (!state || !cold.restore(*state)) std::abort();
        if (op / 8 % 8 == 0) unit.reset();
        break;
      }
      default:
        extra(input);
        break;
    }
  }
}

}  // namespace vmmd::fuzz
