#include "devices/virtio/vsock/vsock.h"

#include <array>
#include <utility>

#include "proto/state.pb.h"

namespace vmmd::devices {

VirtioVsock::VirtioVsock(EventLoop& loop, std::uint64_t guest_cid, VsockMuxer::Host host)
    : SimpleDevice(loop),
      guest_cid_(guest_cid),
      muxer_(loop, std::move(host), [this] { process(kReceive); }) {}

// virtio 1.2, 5.10.4: guest_cid.
std::uint64_t VirtioVsock::read_config(std::uint64_t offset, unsigned width) {
  std::array<std::byte, 8> config{};
  for (std::size_t i = 0; i < config.size(); ++i)
    config.at(i) = static_cast<std::byte>(guest_cid_ >> (8 * i));
  return read_config_bytes(config, offset, width);
}

void VirtioVsock::on_start() {
  muxer_.set_next_port(state_.next_port);
  // An event that had not come back before a pause is not known to have been seen.
  if (state_.reset == Reset::Told) state_.reset = Reset::Pending;
  asked_for_buffers_ = false;
  muxer_.resume(guest_cid_, state_.reset == Reset::None);
}

void VirtioVsock::on_stop() {
  muxer_.suspend();
  state_.next_port = muxer_.next_port();
}

std::optional<std::uint32_t> VirtioVsock::handle(unsigned index, const Chain& chain) {
  if (index == kReceive) {
    if (state_.reset != Reset::None) return std::nullopt;
    return muxer_.fill(chain);
  }
  if (index == kTransmit) {
    transmit_waits_ = !muxer_.receive(chain);
    return transmit_waits_ ? std::nullopt : std::optional(0U);
  }
  if (state_.reset == Reset::Pending) {
    std::array<std::byte, 4> event{};
    event[0] = std::byte{kTransportReset};
    if (!chain.copy_in(0, event)) return 0;  // of no use to anybody
    state_.reset = Reset::Told;
    return 4;
  }
  if (state_.reset == Reset::Told && asked_for_buffers_) {
    state_.reset = Reset::None;
    muxer_.accept();
  }
  return std::nullopt;
}

void VirtioVsock::after_turn(unsigned index) {
  if (index == kEvent) {
    if (state_.reset == Reset::Told && !asked_for_buffers_) ask_for_event_buffers();
    if (state_.reset == Reset::None) process(kReceive);
  } else if (index == kTransmit) {
    if (muxer_.wants_to_send()) process(kReceive);
  } else if (transmit_waits_ && muxer_.can_receive()) {
    transmit_waits_ = false;
    process_later(kTransmit);
  }
}

// The driver gives the event's buffer back when it has acted on it. It usually has put up more than one, and
// with event index it notifies only of buffers beyond those that we have seen: so look at all of them, ask,
// and leave them where they were.
void VirtioVsock::ask_for_event_buffers() {
  Queue* const queue = this->queue(kEvent);
  if (queue == nullptr) return;
  unsigned seen = 0;
  do {
    while (queue->pop(event_chain_)) ++seen;
  } while (queue->broken() == nullptr && seen < kQueueSize && queue->enable_notifications());
  for (; seen != 0; --seen) queue->undo_pop();
  asked_for_buffers_ = true;
}

Result<UnitState> VirtioVsock::save() const {
  const auto& [reset, next_port] = state_;
  state::VirtioVsock message;
  message.set_reset_pending(reset != Reset::None);
  message.set_next_port(next_port);
  return pack_state(message);
}

Status VirtioVsock::restore(const UnitState& state) {
  state::VirtioVsock message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  if (message.next_port() < VsockMuxer::kFirstPort || message.next_port() == UINT32_MAX) {
    return fail(ErrorCode::BadRequest, "unit {}: next port {} is none of the host's", unit_name(),
                message.next_port());
  }
  State next;
  auto& [reset, next_port] = next;
  reset = Reset::Pending;  // whatever it was: the connections are not here
  next_port = message.next_port();
  muxer_.reset();
  state_ = next;
  return {};
}

void VirtioVsock::reset() {
  muxer_.reset();
  state_ = {};
}

std::map<std::string, std::int64_t> VirtioVsock::counters() const {
  const VsockMuxer::Counters& c = muxer_.counters();
  return {{"connections", c.connections}, {"dropped", c.dropped},   {"opened", c.opened},
          {"refused", c.refused},         {"rx_bytes", c.rx_bytes}, {"strays", c.strays},
          {"tx_bytes", c.tx_bytes}};
}

}  // namespace vmmd::devices
