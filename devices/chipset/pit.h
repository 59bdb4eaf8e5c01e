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

/// Intel 8254 programmable interval timer at 1.193182 MHz: four ports at 0x40. Channel 0 drives a line (IRQ
/// 0), channel 2's gate and output are the speaker port's, channel 1 is nobody's.
///
/// Emulated: modes 0 to 5, binary and BCD, all ways of access, counter latch and read-back, null count. Not
/// emulated: a reading of invalid BCD digits; what OUT does while a count of 1 runs in modes 2 and 3.
///
/// Counts are computed from guest time when somebody looks. A timer is armed only for channel 0 and only for
/// OUT's next rising edge: an idle or one-shot PIT that has fired never wakes the host. A falling edge in
/// modes 2 and 3 reaches the line right before the next rising one. No more than 20,000 edges a second are
/// delivered, whatever count the guest writes.
///
/// Locks: its own, then the line's.
class Pit final : public BusDevice, public StateUnit {
 public:
  static constexpr std::uint64_t kSize = 4;
  static constexpr Widths kWidths = kWidth1;
  static constexpr std::uint64_t kFrequency = 1'193'182;  // Hz
  static constexpr std::uint64_t kMinEdgeNs = 50'000;

  Pit(Clock& clock, InterruptLine& irq);

  /// Channel 2's gate and OUT, for the speaker port.
  void set_speaker_gate(bool high);
  [[nodiscard]] bool speaker_output() const;

  std::uint64_t read(std::uint64_t offset, unsigned width) override;
  void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

  [[nodiscard]] std::string_view unit_name() const override { return "pit"; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override;

 private:
  struct Channel {
    std::uint8_t mode = 0;
    std::uint8_t access = 3;  // RW of the control word: low byte, high byte, both
    bool bcd = false;
    bool gate = true;
    std::uint16_t reload = 0;
    std::uint8_t write_low = 0;
    bool write_high_next = false;
    bool read_high_next = false;
    std::uint16_t latch = 0;
    std::uint8_t latched_bytes = 0;
    bool status_latched = false;
    std::uint8_t status = 0;
    bool has_count = false;       // since the control word
    bool loaded = false;          // the counting element has a count
    bool counting = false;        // and its gate lets it count
    bool reload_pending = false;  // null count
    std::uint32_t initial = 0x10000;
    bool low_half = false;    // mode 3
    std::uint64_t since = 0;  // counting: tick at which the element held `initial`
    std::uint64_t held = 0;   // else: how many ticks had passed
  };
  using State = std::array<Channel, 3>;

  [[nodiscard]] static State power_on();
  [[nodiscard]] std::uint64_t now() const;  // in ticks
  [[nodiscard]] static std::uint64_t elapsed(const Channel& channel, std::uint64_t now);
  [[nodiscard]] static bool periodic(const Channel& channel);
  static std::uint32_t full_count(const Channel& channel);
  /// Takes periodic channels to the cycle that `now` is in.
  static void catch_up(Channel& channel, std::uint64_t now);
  static void load(Channel& channel, std::uint64_t now);
  [[nodiscard]] static bool output(const Channel& channel, std::uint64_t now);
  [[nodiscard]] static std::uint16_t count(const Channel& channel, std::uint64_t now);
  [[nodiscard]] static std::uint8_t status_of(const Channel& channel, std::uint64_t now);
  /// The tick of OUT's next rising edge after `now`.
  [[nodiscard]] static std::optional<std::uint64_t> next_rise(const Channel& channel, std::uint64_t now);
  static void latch_count(Channel& channel, std::uint64_t now);
  static void latch_status(Channel& channel, std::uint64_t now);
  static void write_control(Channel& channel, std::uint8_t control);
  static void write_count(Channel& channel, std::uint8_t value, std::uint64_t now);
  static std::uint8_t read_count(Channel& channel, std::uint64_t now);
  static void set_gate(Channel& channel, bool high, std::uint64_t now);
  /// Makes line and timer follow channel 0. `tick` is the one moment of the whole access: were it a later
  /// one, an edge between the two would come to nobody's turn.
  void drive(std::uint64_t tick);
  bool deliver(std::uint64_t tick);
  void expire();

  Clock& clock_;
  InterruptLine& irq_;
  mutable std::mutex mutex_;
  State state_ = power_on();
  std::uint64_t next_edge_ = 0;   // tick of the edge that the timer will deliver, 0: none
  std::unique_ptr<Timer> timer_;  // last: its destructor waits for the callback, which uses the rest
};

}  // namespace vmmd::devices
