#pragma once

#include <cstdint>
#include <mutex>

#include "devices/bus.h"
#include "devices/interrupt.h"
#include "devices/state_unit.h"

namespace vmmd::devices {

/// What the generic event device tells the guest; the value is the bit in its selector register. The DSDT's
/// _EVT method tests the same bits.
enum class GedEvent : std::uint32_t {
  PowerButton = 1U << 0,     // Notify (PWRB, 0x80)
  VmGenerationId = 1U << 1,  // Notify (VGEN, 0x80)
  CpuHotplug = 1U << 2,      // reserved: nobody raises it yet
  MemoryHotplug = 1U << 3,   // reserved: nobody raises it yet
};

/// ACPI generic event device (ACPI0013, ACPI 6.5, 5.6.9): one 4-byte register whose read returns the pending
/// events and clears them, and an edge-triggered interrupt that says "read it". Writes do nothing; so does a
/// read that is not of all four bytes, which would otherwise lose events.
///
/// Locks: its own, then the line's. notify() may be called on any thread.
class GenericEventDevice final : public BusDevice, public StateUnit {
 public:
  static constexpr std::uint64_t kSize = 4;
  static constexpr Widths kWidths = kWidth4;

  explicit GenericEventDevice(InterruptLine& line);

  void notify(GedEvent event);
  void power_button() { notify(GedEvent::PowerButton); }

  std::uint64_t read(std::uint64_t offset, unsigned width) override;
  void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

  [[nodiscard]] std::string_view unit_name() const override { return "ged"; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override;

 private:
  struct State {
    std::uint32_t pending = 0;  // GedEvent bits
  };
  InterruptLine& line_;
  mutable std::mutex mutex_;
  State state_;
};

}  // namespace vmmd::devices
