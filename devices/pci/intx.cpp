#include "devices/pci/intx.h"

namespace vmmd::devices {

namespace {
constexpr std::uint32_t kInterruptStatus = 1U << 3;  // in the low byte of the status register
}

void SharedInterruptLine::pull() {
  const std::lock_guard lock(mutex_);
  if (pulling_++ == 0) line_.set_level(true);
}

void SharedInterruptLine::release() {
  const std::lock_guard lock(mutex_);
  if (--pulling_ == 0) line_.set_level(false);
}

Intx::~Intx() {
  set_pending(false);
}

void Intx::set_pending(bool pending) {
  pending_ = pending;
  drive();
}

void Intx::update(const ConfigSpace& space, bool msix) {
  allowed_ = !msix && (space.command() & kPciCommandIntxDisable) == 0;
  drive();
}

void Intx::drive() {
  const bool pull = pending_ && allowed_;
  if (pull == pulling_) return;
  pulling_ = pull;
  pull ? line_.pull() : line_.release();
}

std::uint32_t Intx::with_status(unsigned offset, unsigned width, std::uint32_t value) const {
  const bool covered = offset <= kPciStatus && kPciStatus < offset + width;
  return covered && pending_ ? value | kInterruptStatus << (8 * (kPciStatus - offset)) : value;
}

}  // namespace vmmd::devices
