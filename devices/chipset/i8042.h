#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string_view>

#include "devices/bus.h"
#include "devices/chipset/power.h"
#include "devices/chipset/ps2_keyboard.h"
#include "devices/interrupt.h"
#include "devices/state_unit.h"

namespace vmmd::devices {

/// As much of the i8042 keyboard controller as resets a machine and lets a driver's probe end: self test,
/// controller command byte, output port, reset pulse. Given an interrupt line, it has a keyboard too, with
/// translation to scan code set 1; otherwise none is attached, bytes sent to it are swallowed and there are
/// no interrupts. There is no mouse.
///
/// Two ports that are not adjacent (the ports between belong to others), hence two bus devices: data() at
/// 0x60 and command() at 0x64, one byte each.
class I8042 final : public StateUnit {
 public:
  static constexpr std::uint64_t kPortSize = 1;
  static constexpr std::uint64_t kCommandPortOffset = 4;  // from the data port
  static constexpr Widths kWidths = kWidth1;

  /// `keyboard_irq`: nullptr for no keyboard.
  explicit I8042(PowerSink& sink, InterruptLine* keyboard_irq = nullptr);

  /// Scan codes (set 2) of a key that was pressed or released. False if no keyboard takes them now.
  bool press(std::string_view codes);

  [[nodiscard]] BusDevice& data() { return data_; }
  [[nodiscard]] BusDevice& command() { return command_; }

  [[nodiscard]] std::string_view unit_name() const override { return "i8042"; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override;

 private:
  class DataPort final : public BusDevice {
   public:
    explicit DataPort(I8042& owner) : owner_(owner) {}
    std::uint64_t read(std::uint64_t offset, unsigned width) override;
    void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

   private:
    I8042& owner_;
  };
  class CommandPort final : public BusDevice {
   public:
    explicit CommandPort(I8042& owner) : owner_(owner) {}
    std::uint64_t read(std::uint64_t offset, unsigned width) override;
    void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

   private:
    I8042& owner_;
  };
  struct State {
    std::uint8_t command_byte = 0x30;  // both ports disabled
    std::uint8_t output_port = 0xc3;   // bit 0: not in reset, bit 1: A20
    std::uint8_t output = 0;           // byte that the data port gives
    bool output_full = false;          // status bit 0
    bool last_was_command = false;     // status bit 3
    std::uint8_t pending_command = 0;  // 0, or the command that awaits its data byte
    bool break_next = false;           // translation: the prefix of a break code was read
    std::optional<Ps2Keyboard> keyboard;
  };
  [[nodiscard]] State fresh() const;
  std::uint8_t translate(std::uint8_t code);
  /// Takes the keyboard's next byte where there is room for it, and makes the interrupt follow.
  void drive();
  void answer(std::uint8_t byte);
  void run_command(std::uint8_t command);
  void take_data(std::uint8_t byte);

  PowerSink& sink_;
  InterruptLine* keyboard_irq_;
  DataPort data_{*this};
  CommandPort command_{*this};
  mutable std::mutex mutex_;
  State state_;
};

}  // namespace vmmd::devices
