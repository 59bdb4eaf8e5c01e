#include "devices/chipset/debug_port.h"

#include <cstddef>
#include <span>

#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {
constexpr std::uint32_t kStateVersion = 1;
constexpr std::uint8_t kDebugConsolePresent = 0xe9;
}  // namespace

std::uint64_t PostCodePort::read(std::uint64_t, unsigned) {
  return last_.load(std::memory_order_relaxed);
}

void PostCodePort::write(std::uint64_t, unsigned, std::uint64_t value) {
  last_.store(static_cast<std::uint8_t>(value), std::memory_order_relaxed);
  writes_.fetch_add(1, std::memory_order_relaxed);
}

Result<UnitState> PostCodePort::save() const {
  state::PostCode message;
  message.set_last(last_);
  return pack_state(message, kStateVersion);
}

Status PostCodePort::restore(const UnitState& saved) {
  state::PostCode message;
  VMMD_TRY(unpack_state(saved, unit_name(), kStateVersion, message));
  if (message.last() > 0xff) {
    return fail(ErrorCode::BadRequest, "unit {}: last {:#x} is no byte", unit_name(), message.last());
  }
  last_ = static_cast<std::uint8_t>(message.last());
  return {};
}

void PostCodePort::reset() {
  last_ = 0;
}

std::map<std::string, std::int64_t> PostCodePort::counters() const {
  return {{"last", last_}, {"writes", static_cast<std::int64_t>(writes_.load())}};
}

std::uint64_t DebugConsole::read(std::uint64_t, unsigned) {
  return kDebugConsolePresent;
}

void DebugConsole::write(std::uint64_t, unsigned, std::uint64_t value) {
  const std::byte byte{static_cast<std::uint8_t>(value)};
  backend_.write(std::span(&byte, 1));
}

}  // namespace vmmd::devices
