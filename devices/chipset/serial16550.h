#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>

#include "devices/bus.h"
#include "devices/char_backend.h"
#include "devices/interrupt.h"
#include "devices/state_unit.h"

namespace vmmd::devices {

/// A National Semiconductor PC16550D (NS16550A) serial port: 8 byte-wide registers.
///
/// Emulated: 16-byte receive FIFO with trigger levels and character time-out (due at once), all four
/// interrupt sources with their priorities, divisor latch, scratch register, loopback with modem lines,
/// overrun and break in loopback, OUT2 as the gate of the interrupt line (as PCs wire it; loopback turns OUT2
/// off). Not emulated: the speed and format of the line (output is sent at once, so the transmitter is always
/// empty), modem lines of the host (carrier, DSR and CTS are always on), DMA modes.
///
/// Input waits in the host until the guest takes it. None is taken before the first access or restore(), so
/// that restore() loses nothing, and none in loopback.
///
/// Locking: one mutex, held while the line is driven and the backend written to. Thread-safe.
///
///     Serial16550 serial("serial0", ioapic_line_4, backend);
///     ports.map({"serial0", 0x3f8, Serial16550::kPorts, kWidth1, &serial});
class Serial16550 final : public BusDevice, public StateUnit, private CharReceiver {
 public:
  static constexpr std::uint64_t kPorts = 8;
  static constexpr std::size_t kFifoBytes = 16;

  /// `line` and `backend` outlive the port. Becomes the backend's receiver.
  Serial16550(std::string unit_name, InterruptLine& line, CharBackend& backend);
  ~Serial16550() override;
  Serial16550(const Serial16550&) = delete;
  Serial16550& operator=(const Serial16550&) = delete;

  std::uint64_t read(std::uint64_t offset, unsigned width) override;
  void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

  [[nodiscard]] std::string_view unit_name() const override { return unit_name_; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override;
  [[nodiscard]] std::map<std::string, std::int64_t> counters() const override;

 private:
  struct State {
    std::uint8_t interrupt_enable = 0;
    std::uint8_t fifo_control = 0;  // enable, DMA mode and trigger bits; the reset bits read as zero
    std::uint8_t line_control = 0;
    std::uint8_t modem_control = 0;
    std::uint8_t scratch = 0;
    std::uint16_t divisor = 12;      // 9600 baud
    std::uint8_t line_errors = 0;    // overrun, parity, framing, break, error in FIFO: until LSR is read
    std::uint8_t modem_changes = 0;  // low half of MSR: until MSR is read
    bool thr_empty_pending = false;  // the THR empty interrupt, until IIR is read or THR written
    std::array<std::uint8_t, kFifoBytes> fifo = {};
    std::uint8_t fifo_head = 0;
    std::uint8_t fifo_count = 0;
  };

  std::size_t receive(std::span<const std::byte> data) override;

  // All below: with mutex_ held.
  [[nodiscard]] std::uint8_t read_register(std::uint64_t offset);
  void write_register(std::uint64_t offset, std::uint8_t value);
  void transmit(std::uint8_t value);
  void write_fifo_control(std::uint8_t value);
  void write_line_control(std::uint8_t value);
  void write_modem_control(std::uint8_t value);
  [[nodiscard]] bool fifo_enabled() const;
  [[nodiscard]] bool loopback() const;
  [[nodiscard]] std::size_t capacity() const;
  void push(std::uint8_t value);
  [[nodiscard]] std::uint8_t pop();
  void clear_fifo();
  [[nodiscard]] std::uint8_t interrupt_cause() const;
  [[nodiscard]] std::uint8_t line_status() const;
  [[nodiscard]] std::uint8_t modem_lines() const;
  void update_line();
  void ask_for_input();

  const std::string unit_name_;
  InterruptLine& line_;
  CharBackend& backend_;

  mutable std::mutex mutex_;
  State state_;
  bool line_high_ = false;
  bool live_ = false;     // the guest has touched the port, or it was restored
  bool refused_ = false;  // the backend holds input that had no room
  std::uint64_t tx_bytes_ = 0;
  std::uint64_t rx_bytes_ = 0;
  std::uint64_t overruns_ = 0;
  std::uint64_t interrupts_ = 0;
};

}  // namespace vmmd::devices
