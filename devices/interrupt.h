#pragma once

#include <cstdint>

namespace vmmd::devices {

/// A message-signalled interrupt as it appears on the bus (Intel SDM vol. 3, 11.11).
struct MsiMessage {
  std::uint64_t address = 0;
  std::uint32_t data = 0;
  bool operator==(const MsiMessage&) const = default;
};

/// Where MSIs go: the LAPICs (KVM_SIGNAL_MSI), or a recorder in tests. Thread-safe.
class MsiSink {
 public:
  virtual ~MsiSink() = default;
  virtual void signal(MsiMessage message) = 0;
};

/// One input of an interrupt controller. Thread-safe. set_level() carries the line's level, so that a
/// level-triggered input stays asserted until its device lowers it; an edge is set_level(true),
/// set_level(false).
class InterruptLine {
 public:
  virtual ~InterruptLine() = default;
  virtual void set_level(bool high) = 0;
  void pulse() {
    set_level(true);
    set_level(false);
  }
};

/// A line that is connected to nothing.
class NoInterruptLine final : public InterruptLine {
 public:
  void set_level(bool) override {}
};

/// Told when the guest ended a level-triggered interrupt (EOI), so that its source can say whether it is
/// still asserted ("resample"; irqfds with KVM_IRQFD_FLAG_RESAMPLE work this way).
class ResampleListener {
 public:
  virtual ~ResampleListener() = default;
  virtual void on_end_of_interrupt() = 0;
};

}  // namespace vmmd::devices
