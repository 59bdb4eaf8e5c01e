#include "devices/chipset/speaker_port.h"

#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {
constexpr std::uint8_t kGate = 1U << 0;
constexpr std::uint8_t kWritable = 0x0f;
constexpr unsigned kRefresh = 1U << 4;
constexpr unsigned kOutput = 1U << 5;
constexpr std::uint64_t kRefreshNs = 15'085;  // 18 ticks of the PIT
}  // namespace

std::uint64_t SpeakerPort::read(std::uint64_t offset, unsigned width) {
  if (offset != 0 || width != 1) return all_ones(width);
  const std::lock_guard lock(mutex_);
  const bool refresh = clock_.monotonic_ns() / kRefreshNs % 2 != 0;
  return state_.control | (refresh ? kRefresh : 0U) | (pit_.speaker_output() ? kOutput : 0U);
}

void SpeakerPort::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (offset != 0 || width != 1) return;
  const std::lock_guard lock(mutex_);
  state_.control = value & kWritable;
  pit_.set_speaker_gate((value & kGate) != 0);
}

Result<UnitState> SpeakerPort::save() const {
  const std::lock_guard lock(mutex_);
  const auto& [control] = state_;
  state::SpeakerPort message;
  message.set_control(control);
  return pack_state(message);
}

Status SpeakerPort::restore(const UnitState& state) {
  state::SpeakerPort message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  if (message.control() > kWritable) {
    return fail(ErrorCode::BadRequest, "unit {}: bits {:#x} do not exist", unit_name(), message.control());
  }
  const std::lock_guard lock(mutex_);
  state_ = {static_cast<std::uint8_t>(message.control())};
  return {};
}

void SpeakerPort::reset() {
  const std::lock_guard lock(mutex_);
  state_ = {};
  pit_.set_speaker_gate(false);
}

}  // namespace vmmd::devices
