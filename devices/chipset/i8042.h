#pragma once

#include <cstdint>
#include <mutex>

#include "devices/bus.h"
#include "devices/chipset/power.h"
#include "devices/state_unit.h"

namespace vmmd::devices {

/// As much of the i8042 keyboard controller as resets a machine and lets a driver's probe end: self test,
/// controller command byte, output port, reset pulse. No keyboard and no mouse are attached: bytes sent to
/// them are swallowed. No interrupts.
///
/// Two ports that are not adjacent (the ports between belong to others), hence two bus devices: data() at
/// 0x60 and command() at 0x64, one byte each.
class I8042 final : public StateUnit {
 public:
  static constexpr std::uint64_t kPortSize = 1;
  static constexpr std::uint64_t kCommandPortOffset = 4;  // from the data port
  static constexpr Widths kWidths = kWidth1;

  explicit I8042(PowerSink& sink);

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
  };
  void answer(std::uint8_t byte);
  void run_command(std::uint8_t command);
  void take_data(std::uint8_t byte);

  PowerSink& sink_;
  DataPort data_{*this};
  CommandPort command_{*this};
  mutable std::mutex mutex_;
  State state_;
};

}  // namespace vmmd::devices
