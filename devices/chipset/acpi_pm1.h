#pragma once

#include <cstdint>
#include <mutex>

#include "devices/bus.h"
#include "devices/chipset/power.h"
#include "devices/interrupt.h"
#include "devices/state_unit.h"

namespace vmmd::devices {

/// ACPI's fixed registers PM1a_EVT (status at 0, enable at 2) and PM1a_CNT (at 4), 16 bits each (ACPI 6.5,
/// 4.8.3.1 and 4.8.3.2), for the machine with a PC's old devices, which is not hardware-reduced: Linux and
/// others do not look at PIC and PIT on a hardware-reduced one.
///
/// The one event is the power button. SCI_EN is always set: there is no SMI and no legacy mode. S5 is the
/// only sleep. The SCI line is level-triggered.
///
/// Locks: its own, then the line's. power_button() may be called on any thread.
class AcpiPm1 final : public BusDevice, public StateUnit {
 public:
  static constexpr std::uint64_t kSize = 6;
  static constexpr std::uint64_t kControlOffset = 4;
  static constexpr Widths kWidths = kWidth1 | kWidth2;

  AcpiPm1(InterruptLine& sci, PowerSink& sink, std::uint8_t s5_sleep_type);

  void power_button();

  std::uint64_t read(std::uint64_t offset, unsigned width) override;
  void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

  [[nodiscard]] std::string_view unit_name() const override { return "acpi-pm1"; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override;

 private:
  struct State {
    std::uint16_t status = 0;
    std::uint16_t enable = 0;
    std::uint16_t control = 0;  // without SCI_EN
  };
  void drive();

  const std::uint8_t s5_sleep_type_;
  InterruptLine& sci_;
  PowerSink& sink_;
  mutable std::mutex mutex_;
  State state_;
};

}  // namespace vmmd::devices
