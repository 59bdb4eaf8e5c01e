#pragma once

#include <cstdint>
#include <mutex>

#include "devices/bus.h"
#include "devices/chipset/pit.h"
#include "devices/clock.h"
#include "devices/state_unit.h"

namespace vmmd::devices {

/// Port 0x61, "system control port B": bit 0 gate of the PIT's channel 2, bit 1 speaker on, bits 2 and 3
/// parity and channel checks off; read only: bit 4 memory refresh (turns over every 15 us: programs wait by
/// it), bit 5 channel 2's OUT. There is no speaker: nothing sounds.
///
/// Locks: its own, then the PIT's.
class SpeakerPort final : public BusDevice, public StateUnit {
 public:
  static constexpr std::uint64_t kSize = 1;
  static constexpr Widths kWidths = kWidth1;

  SpeakerPort(const Clock& clock, Pit& pit) : clock_(clock), pit_(pit) {}

  std::uint64_t read(std::uint64_t offset, unsigned width) override;
  void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

  [[nodiscard]] std::string_view unit_name() const override { return "speaker"; }
  [[nodiscard]] Result<UnitState> save() const override;
  /// Leaves the gate to the PIT's own state.
  Status restore(const UnitState& state) override;
  void reset() override;

 private:
  struct State {
    std::uint8_t control = 0;  // bits 0 to 3
  };
  const Clock& clock_;
  Pit& pit_;
  mutable std::mutex mutex_;
  State state_;
};

}  // namespace vmmd::devices
