#include "devices/virtio/watchdog.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "proto/state.pb.h"

namespace vmmd::devices {

VirtioWatchdog::VirtioWatchdog(EventLoop& loop, Clock& clock, PowerSink& power, DeviceEvents& events)
    : SimpleDevice(loop), clock_(clock), power_(power), events_(events) {
  timer_ = clock_.make_timer([this] { expired(); });
}

std::optional<std::uint32_t> VirtioWatchdog::handle(unsigned, const Chain& chain) {
  constexpr std::array kAlive{std::byte{1}};
  if (!chain.copy_in(0, kAlive)) return 0;  // no room for an answer: not a ping
  ++pings_;
  start_timer(kTimeoutNs);
  return 1;
}

void VirtioWatchdog::start_timer(std::uint64_t remaining_ns) {
  const std::lock_guard lock(mutex_);
  deadline_ns_ = clock_.monotonic_ns() + remaining_ns;
  timer_->arm(deadline_ns_);
}

void VirtioWatchdog::on_start() {
  std::uint64_t remaining = 0;
  {
    const std::lock_guard lock(mutex_);
    remaining = std::exchange(state_.remaining_ns, 0);
  }
  if (remaining != 0) start_timer(remaining);
}

void VirtioWatchdog::on_stop() {
  const std::lock_guard lock(mutex_);
  timer_->cancel();
  if (deadline_ns_ == 0) return;
  // Due just now: it expires when the device runs again.
  const std::uint64_t now = clock_.monotonic_ns();
  state_.remaining_ns = deadline_ns_ > now ? std::min(deadline_ns_ - now, kTimeoutNs) : 1;
  deadline_ns_ = 0;
}

void VirtioWatchdog::expired() {
  {
    const std::lock_guard lock(mutex_);
    // The device has stopped or a ping has come while the timer fired.
    if (deadline_ns_ == 0 || clock_.monotonic_ns() < deadline_ns_) return;
    deadline_ns_ = 0;
  }
  ++timeouts_;
  events_.watchdog_expired(
      unit_name(), fmt::format("no ping from the guest for {} s; it is reset", kTimeoutNs / 1'000'000'000));
  power_.request_reset();
}

Result<UnitState> VirtioWatchdog::save() const {
  const std::lock_guard lock(mutex_);
  const auto& [remaining_ns] = state_;
  state::VirtioWatchdog message;
  message.set_remaining_ns(remaining_ns);
  return pack_state(message);
}

Status VirtioWatchdog::restore(const UnitState& state) {
  state::VirtioWatchdog message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  if (message.remaining_ns() > kTimeoutNs) {
    return fail(ErrorCode::BadRequest, "unit {}: {} ns are left of {}", unit_name(), message.remaining_ns(),
                kTimeoutNs);
  }
  const std::lock_guard lock(mutex_);
  auto& [remaining_ns] = state_;
  remaining_ns = message.remaining_ns();
  return {};
}

void VirtioWatchdog::reset() {
  const std::lock_guard lock(mutex_);
  state_ = {};
}

std::map<std::string, std::int64_t> VirtioWatchdog::counters() const {
  return {{"pings", pings_}, {"timeouts", timeouts_}};
}

}  // namespace vmmd::devices
