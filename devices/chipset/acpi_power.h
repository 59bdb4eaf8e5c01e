#pragma once

#include <cstdint>
#include <mutex>

#include "devices/bus.h"
#include "devices/chipset/power.h"
#include "devices/state_unit.h"

namespace vmmd::devices {

/// The registers by which a hardware-reduced ACPI machine is reset and powered off (ACPI 6.5, 4.8.3.6 and
/// 4.8.3.7), one region of three bytes: RESET_REG at 0, SLEEP_CONTROL_REG at 1, SLEEP_STATUS_REG at 2.
///
/// Only S5 is known; SLP_EN with another sleep type does nothing. Nothing wakes from S5, so WAK_STS is never
/// set.
class AcpiPower final : public BusDevice, public StateUnit {
 public:
  static constexpr std::uint64_t kSize = 3;
  static constexpr Widths kWidths = kWidth1;
  static constexpr std::uint64_t kResetOffset = 0;
  static constexpr std::uint64_t kSleepControlOffset = 1;
  static constexpr std::uint64_t kSleepStatusOffset = 2;

  struct Config {
    std::uint8_t reset_value = 1;    // FADT RESET_VALUE
    std::uint8_t s5_sleep_type = 5;  // SLP_TYP of \_S5
  };
  AcpiPower(PowerSink& sink, Config config);

  std::uint64_t read(std::uint64_t offset, unsigned width) override;
  void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

  [[nodiscard]] std::string_view unit_name() const override { return "acpi-power"; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override;

 private:
  struct State {
    std::uint8_t sleep_type = 0;  // SLP_TYP as last written, 3 bits
  };
  const Config config_;
  PowerSink& sink_;
  mutable std::mutex mutex_;
  State state_;
};

}  // namespace vmmd::devices
