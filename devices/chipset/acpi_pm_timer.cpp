#include "devices/chipset/acpi_pm_timer.h"

#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {
constexpr std::uint64_t kNanoseconds = 1'000'000'000;
}

AcpiPmTimer::AcpiPmTimer(const Clock& clock) : clock_(clock) {
  reset();
}

std::uint64_t AcpiPmTimer::read(std::uint64_t offset, unsigned width) {
  if (offset >= kSize || width > kSize - offset) return all_ones(width);
  const std::lock_guard lock(mutex_);
  const std::uint64_t elapsed = clock_.monotonic_ns() - state_.started_at_ns;
  // In two steps, because nanoseconds times the frequency overflow after 86 minutes.
  const std::uint64_t ticks =
      elapsed / kNanoseconds * kFrequency + elapsed % kNanoseconds * kFrequency / kNanoseconds;
  return ((ticks & 0xffff'ffff) >> (8 * offset)) & all_ones(width);
}

void AcpiPmTimer::write(std::uint64_t, unsigned, std::uint64_t) {}

Result<UnitState> AcpiPmTimer::save() const {
  const std::lock_guard lock(mutex_);
  const auto& [started_at_ns] = state_;
  state::AcpiPmTimer message;
  message.set_started_at_ns(started_at_ns);
  return pack_state(message);
}

Status AcpiPmTimer::restore(const UnitState& state) {
  state::AcpiPmTimer message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  State next;
  auto& [started_at_ns] = next;
  started_at_ns = message.started_at_ns();  // any value is possible: the counter wraps around
  const std::lock_guard lock(mutex_);
  state_ = next;
  return {};
}

void AcpiPmTimer::reset() {
  const std::lock_guard lock(mutex_);
  state_ = {.started_at_ns = clock_.monotonic_ns()};
}

}  // namespace vmmd::devices
