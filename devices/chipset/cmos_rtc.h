#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "devices/bus.h"
#include "devices/clock.h"
#include "devices/interrupt.h"
#include "devices/state_unit.h"

namespace vmmd::devices {

/// Motorola MC146818 real-time clock with 128 bytes of CMOS RAM: index port at offset 0, data port at 1.
///
/// Emulated: BCD and binary, 12 and 24 hours, SET and divider reset, update in progress, alarm with
/// wildcards, update-ended and periodic interrupts, century at 0x32 (FADT CENTURY = 0x32), memory sizes where
/// firmware looks for them (0x34-0x35, 0x5b-0x5d). Not emulated: daylight saving, square wave, the NMI mask
/// in bit 7 of the index.
///
/// Time is the host's wall clock plus an offset that the guest changes by setting the time; after a restore
/// it follows the wall clock again, and an alarm that passed meanwhile fires at once. Flags in register C are
/// computed when somebody looks: a timer is armed only while an interrupt is enabled and not yet pending, so
/// that an idle clock never wakes the host.
///
/// Locks: its own, then the line's. The timer's callback takes them too.
class CmosRtc final : public BusDevice, public StateUnit {
 public:
  static constexpr std::uint64_t kSize = 2;
  static constexpr Widths kWidths = kWidth1;
  static constexpr std::uint8_t kCenturyIndex = 0x32;

  struct Config {
    std::uint64_t ram_below_4g = 0;  // bytes
    std::uint64_t ram_above_4g = 0;  // bytes
  };
  CmosRtc(Clock& clock, InterruptLine& irq, Config config);

  /// The wall clock moved on while guest time stood still (call after every resume): looks whether something
  /// is due and arms the timer again.
  void resync();

  std::uint64_t read(std::uint64_t offset, unsigned width) override;
  void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

  [[nodiscard]] std::string_view unit_name() const override { return "rtc"; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override;

 private:
  struct State {
    std::uint8_t index = 0;
    /// Registers as bytes. Those of the time hold it only while the clock is stopped; C holds the flags.
    std::array<std::uint8_t, 128> ram{};
    std::int64_t offset_s = 0;       // guest time = (wall clock + phase_ns) / 1e9 + offset_s
    std::uint32_t phase_ns = 0;      // below 1e9
    std::uint8_t weekday_shift = 0;  // guest's day of week ahead of the calendar's, 0..6
    std::int64_t seen_second = 0;    // updates up to this guest second are in register C
    std::uint64_t seen_ns = 0;       // periodic ticks up to this monotonic time are in register C
  };
  /// Guest time: whole seconds since 1970, and how far into the second.
  struct Instant {
    std::int64_t second = 0;
    std::uint32_t nanosecond = 0;
  };

  [[nodiscard]] State fresh() const;
  [[nodiscard]] bool running() const;
  [[nodiscard]] Instant now() const;
  [[nodiscard]] std::uint8_t read_ram(std::uint8_t index);
  void write_ram(std::uint8_t index, std::uint8_t value);
  void write_control(std::uint8_t index, std::uint8_t value);
  [[nodiscard]] std::uint8_t encode(unsigned value) const;
  [[nodiscard]] unsigned decode(std::uint8_t value) const;
  [[nodiscard]] std::uint8_t encode_hour(unsigned hour) const;
  [[nodiscard]] unsigned decode_hour(std::uint8_t value) const;
  [[nodiscard]] std::uint8_t time_register(std::uint8_t index, std::int64_t second) const;
  void latch_time(std::int64_t second);
  /// Sets guest time from the time registers; until now it was `second`.
  void set_time_from_ram(std::int64_t second);
  [[nodiscard]] std::optional<std::int64_t> next_alarm(std::int64_t after) const;
  [[nodiscard]] std::optional<std::uint64_t> next_tick(std::uint64_t after_ns) const;
  /// Puts what happened since the last look into register C.
  void catch_up();
  /// Makes line and timer follow registers B and C.
  void drive();

  const Config config_;
  Clock& clock_;
  InterruptLine& irq_;
  mutable std::mutex mutex_;
  State state_;
  std::unique_ptr<Timer> timer_;  // last: its destructor waits for the callback, which uses the rest
};

}  // namespace vmmd::devices
