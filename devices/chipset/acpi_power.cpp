#include "devices/chipset/acpi_power.h"

#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {
// Sleep control register, ACPI 6.5, table 4.19.
constexpr unsigned kSleepTypeShift = 2;
constexpr std::uint8_t kSleepTypeMask = 7;
constexpr std::uint8_t kSleepEnable = 1U << 5;
}  // namespace

AcpiPower::AcpiPower(PowerSink& sink, Config config) : config_(config), sink_(sink) {}

std::uint64_t AcpiPower::read(std::uint64_t offset, unsigned width) {
  const std::lock_guard lock(mutex_);
  if (width != 1) return all_ones(width);
  switch (offset) {
    case kResetOffset:
    case kSleepStatusOffset:
      return 0;
    case kSleepControlOffset:
      return static_cast<std::uint64_t>(state_.sleep_type) << kSleepTypeShift;
    default:
      return all_ones(width);
  }
}

void AcpiPower::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  const std::lock_guard lock(mutex_);
  if (width != 1) return;
  if (offset == kResetOffset) {
    if (value == config_.reset_value) sink_.request_reset();
  } else if (offset == kSleepControlOffset) {
    state_.sleep_type = (value >> kSleepTypeShift) & kSleepTypeMask;
    if ((value & kSleepEnable) != 0 && state_.sleep_type == config_.s5_sleep_type) sink_.request_shutdown();
  }
}

Result<UnitState> AcpiPower::save() const {
  const std::lock_guard lock(mutex_);
  const auto& [sleep_type] = state_;
  state::AcpiPower message;
  message.set_sleep_type(sleep_type);
  return pack_state(message);
}

Status AcpiPower::restore(const UnitState& state) {
  state::AcpiPower message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  if (message.sleep_type() > kSleepTypeMask) {
    return fail(ErrorCode::BadRequest, "unit {}: sleep type {} does not exist", unit_name(),
                message.sleep_type());
  }
  State next;
  auto& [sleep_type] = next;
  sleep_type = static_cast<std::uint8_t>(message.sleep_type());
  const std::lock_guard lock(mutex_);
  state_ = next;
  return {};
}

void AcpiPower::reset() {
  const std::lock_guard lock(mutex_);
  state_ = {};
}

}  // namespace vmmd::devices
