#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "devices/bus.h"
#include "devices/interrupt.h"
#include "devices/state_unit.h"

namespace vmmd::devices {

/// The two Intel 8259A interrupt controllers of a PC, the second on input 2 of the first, with the chipset's
/// edge/level registers (ELCR). Three bus devices: master() at 0x20, slave() at 0xa0, elcr() at 0x4d0, two
/// ports each.
///
/// Emulated: ICW1 to ICW4, OCW1 to OCW3, fully nested, rotating and specific priorities, automatic EOI,
/// special mask, special fully nested mode, poll, edge and level inputs, spurious interrupts 7 and 15. Not
/// emulated: MCS-80 mode and buffered mode; ICW1's LTIM bit, for which PCs have the ELCR; another wiring of
/// the cascade than ICW3 has on a PC.
///
/// Power-on is what PC firmware leaves behind: vectors 0x08 and 0x70, everything masked.
///
/// Locks: device lock, then this one's, then INTR's.
class Pic final : public StateUnit {
 public:
  static constexpr unsigned kInputs = 16;
  static constexpr unsigned kCascade = 2;
  static constexpr std::uint64_t kPorts = 2;
  static constexpr Widths kWidths = kWidth1;

  /// `intr` is the CPU's pin: high while an interrupt waits for acknowledge().
  explicit Pic(InterruptLine& intr);

  [[nodiscard]] BusDevice& master() { return ports_[0]; }
  [[nodiscard]] BusDevice& slave() { return ports_[1]; }
  [[nodiscard]] BusDevice& elcr() { return elcr_; }

  /// An ISA interrupt's input, below kInputs and not kCascade. Lives as long as the PIC; thread-safe.
  [[nodiscard]] InterruptLine& line(unsigned irq) { return lines_.at(irq); }

  /// The CPU's INTA cycle: the vector to deliver. Where nothing waits any more it is the spurious one.
  std::uint8_t acknowledge();

  [[nodiscard]] std::string_view unit_name() const override { return "pic"; }
  [[nodiscard]] Result<UnitState> save() const override;
  /// Restore after the devices that drive its lines: their levels are part of its state.
  Status restore(const UnitState& state) override;
  void reset() override;
  [[nodiscard]] std::map<std::string, std::int64_t> counters() const override;

 private:
  class Ports final : public BusDevice {
   public:
    std::uint64_t read(std::uint64_t offset, unsigned width) override;
    void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;
    Pic* owner = nullptr;
    unsigned chip = 0;
  };
  class Elcr final : public BusDevice {
   public:
    explicit Elcr(Pic& owner) : owner_(owner) {}
    std::uint64_t read(std::uint64_t offset, unsigned width) override;
    void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

   private:
    Pic& owner_;
  };
  class Line final : public InterruptLine {
   public:
    void set_level(bool high) override { owner->set_input(irq, high); }
    Pic* owner = nullptr;
    unsigned irq = 0;
  };
  struct Chip {
    std::uint8_t lines = 0;       // levels of the inputs
    std::uint8_t requests = 0;    // IRR
    std::uint8_t in_service = 0;  // ISR
    std::uint8_t mask = 0xff;     // IMR
    std::uint8_t level = 0;       // ELCR
    std::uint8_t vector = 0;      // ICW2, of input 0
    std::uint8_t lowest = 7;      // the input of lowest priority
    std::uint8_t next_icw = 0;    // 2 to 4 while being initialized, else 0
    bool wants_icw4 = false;
    bool single = false;  // ICW1: no ICW3 follows
    bool auto_eoi = false;
    bool fully_nested = false;  // "special fully nested", ICW4
    bool rotate_on_auto_eoi = false;
    bool special_mask = false;
    bool read_in_service = false;  // OCW3: what offset 0 reads
    bool poll = false;             // the next read is a poll
  };
  using State = std::array<Chip, 2>;

  [[nodiscard]] static State power_on();
  [[nodiscard]] static int highest(const Chip& chip, std::uint8_t bits);
  /// The input that the chip asks the CPU to serve, or -1.
  [[nodiscard]] int pending(unsigned chip) const;
  void set_input(unsigned irq, bool high);
  void set_chip_input(Chip& chip, unsigned input, bool high);
  std::uint8_t take(unsigned chip);
  void start(Chip& chip, std::uint8_t icw1);
  void write_icw(Chip& chip, std::uint8_t value);
  void write_ocw2(Chip& chip, std::uint8_t value);
  void write_ocw3(Chip& chip, std::uint8_t value);
  void accept(Chip& chip, unsigned input);
  /// Makes the cascade and INTR follow.
  void drive();

  InterruptLine& intr_;
  std::array<Ports, 2> ports_;
  Elcr elcr_{*this};
  std::array<Line, kInputs> lines_;
  mutable std::mutex mutex_;
  State state_ = power_on();
  bool output_ = false;  // INTR as it was driven last: follows from state_
  std::int64_t acknowledged_ = 0;
  std::int64_t spurious_ = 0;
};

}  // namespace vmmd::devices
