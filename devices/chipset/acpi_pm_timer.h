#pragma once

#include <cstdint>
#include <mutex>

#include "devices/bus.h"
#include "devices/clock.h"
#include "devices/state_unit.h"

namespace vmmd::devices {

/// ACPI power management timer (ACPI 6.5, 4.8.3.3): a 32-bit counter of 3.579545 MHz, so the FADT sets
/// TMR_VAL_EXT. It counts guest time since power-on and goes on across snapshot and restore. No interrupt
/// (a hardware-reduced machine has no TMR_STS). Writes do nothing.
class AcpiPmTimer final : public BusDevice, public StateUnit {
 public:
  static constexpr std::uint64_t kSize = 4;
  static constexpr Widths kWidths = kWidth1 | kWidth2 | kWidth4;
  static constexpr std::uint64_t kFrequency = 3'579'545;  // Hz

  explicit AcpiPmTimer(const Clock& clock);

  std::uint64_t read(std::uint64_t offset, unsigned width) override;
  void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

  [[nodiscard]] std::string_view unit_name() const override { return "acpi-pm-timer"; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override;

 private:
  struct State {
    std::uint64_t started_at_ns = 0;  // Clock::monotonic_ns() at which the counter was 0
  };
  const Clock& clock_;
  mutable std::mutex mutex_;
  State state_;
};

}  // namespace vmmd::devices
