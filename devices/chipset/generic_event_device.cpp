#include "devices/chipset/generic_event_device.h"

#include <utility>

#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {
constexpr std::uint32_t kKnownEvents = 0xf;
}

GenericEventDevice::GenericEventDevice(InterruptLine& line) : line_(line) {}

void GenericEventDevice::notify(GedEvent event) {
  const std::lock_guard lock(mutex_);
  state_.pending |= static_cast<std::uint32_t>(event);
  line_.pulse();
}

std::uint64_t GenericEventDevice::read(std::uint64_t offset, unsigned width) {
  if (offset != 0 || width != kSize) return all_ones(width);
  const std::lock_guard lock(mutex_);
  return std::exchange(state_.pending, 0);
}

void GenericEventDevice::write(std::uint64_t, unsigned, std::uint64_t) {}

Result<UnitState> GenericEventDevice::save() const {
  const std::lock_guard lock(mutex_);
  const auto& [pending] = state_;
  state::GenericEventDevice message;
  message.set_pending(pending);
  return pack_state(message);
}

Status GenericEventDevice::restore(const UnitState& state) {
  state::GenericEventDevice message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  if ((message.pending() & ~kKnownEvents) != 0) {
    return fail(ErrorCode::BadRequest, "unit {}: unknown pending events {:#x}", unit_name(),
                message.pending());
  }
  State next;
  auto& [pending] = next;
  pending = message.pending();
  const std::lock_guard lock(mutex_);
  state_ = next;
  // The guest may already have the interrupt; one more than needed only reads an empty selector.
  if (pending != 0) line_.pulse();
  return {};
}

void GenericEventDevice::reset() {
  const std::lock_guard lock(mutex_);
  state_ = {};
}

}  // namespace vmmd::devices
