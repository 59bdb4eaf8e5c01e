#pragma once

#include <cstdint>
#include <mutex>

#include "devices/interrupt.h"
#include "devices/pci/config_space.h"

namespace vmmd::devices {

/// An interrupt line that several functions share: high while any of them pulls it. Thread-safe; its lock is
/// taken after a function's and before the interrupt controller's.
class SharedInterruptLine {
 public:
  /// `line` outlives this.
  explicit SharedInterruptLine(InterruptLine& line) : line_(line) {}
  /// One function starts or stops pulling.
  void pull();
  void release();

 private:
  InterruptLine& line_;
  std::mutex mutex_;
  unsigned pulling_ = 0;
};

/// The legacy interrupt of one function (PCI Local Bus 3.0, 6.2.4): a level, an interrupt status bit that
/// shows it, and INTx disable, which keeps it off the line. Not locked: it is the function's.
class Intx {
 public:
  /// The line outlives this.
  explicit Intx(SharedInterruptLine& line) : line_(line) {}
  ~Intx();
  Intx(const Intx&) = delete;
  Intx& operator=(const Intx&) = delete;

  /// What the function has to say, whether or not it may.
  void set_pending(bool pending);
  /// After each change of the configuration space. `msix`: MSI-X is in use, so the line is not.
  void update(const ConfigSpace& space, bool msix);
  [[nodiscard]] bool pending() const { return pending_; }
  /// `value`, read from the configuration space, with the interrupt status bit in it.
  [[nodiscard]] std::uint32_t with_status(unsigned offset, unsigned width, std::uint32_t value) const;

 private:
  void drive();

  SharedInterruptLine& line_;
  bool pending_ = false;
  bool allowed_ = true;
  bool pulling_ = false;
};

}  // namespace vmmd::devices
