#include "devices/virtio/console.h"

#include <algorithm>
#include <array>

#include "proto/state.pb.h"

namespace vmmd::devices {

VirtioConsole::VirtioConsole(EventLoop& loop, CharBackend& backend)
    : SimpleDevice(loop), backend_(backend), state_(State{backend.size()}) {
  backend_.set_receiver(this);
}

VirtioConsole::~VirtioConsole() {
  backend_.set_receiver(nullptr);
}

// virtio 1.2, 5.3.4: columns, rows, max_nr_ports, emerg_wr.
std::uint64_t VirtioConsole::read_config(std::uint64_t offset, unsigned width) {
  const CharSize size = state_.load().size;
  const std::array config{std::byte(size.columns & 0xff),
                          std::byte(size.columns >> 8),
                          std::byte(size.rows & 0xff),
                          std::byte(size.rows >> 8),
                          std::byte(1),
                          std::byte(0),
                          std::byte(0),
                          std::byte(0)};
  return read_config_bytes(config, offset, width);
}

void VirtioConsole::on_start() {
  follow_size();
}

std::optional<std::uint32_t> VirtioConsole::handle(unsigned index, const Chain& chain) {
  if (index != kTransmit) {
    // A buffer for input: it stays where it is until there is some. receive() asks for notifications again
    // when it finds none left.
    backend_.receiver_ready();
    return std::nullopt;
  }
  std::uint32_t room = kMaxChain;
  for (const Segment& segment : chain.readable) {
    const std::uint32_t length = std::min(segment.length, room);
    if (length != 0) backend_.write({segment.host, length});
    room -= length;
    charge(length);
    tx_bytes_ += length;
    tx_refused_ += segment.length - length;
  }
  return 0;
}

std::size_t VirtioConsole::receive(std::span<const std::byte> data) {
  Queue* const queue = this->queue(kReceive);
  if (queue == nullptr) return 0;
  std::size_t taken = 0;
  // A buffer without room takes nothing: bound how many of those are looked at.
  for (unsigned round = 0; round < kBatch && taken < data.size(); ++round) {
    if (!queue->pop(received_)) {
      if (!queue->enable_notifications()) break;
      continue;
    }
    const auto length =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(received_.writable_size(), data.size() - taken));
    static_cast<void>(received_.copy_in(0, data.subspan(taken, length)));
    queue->push(received_, length);
    taken += length;
  }
  rx_bytes_ += static_cast<std::int64_t>(taken);
  publish(kReceive);
  // Stopped by the bound, not for want of buffers: no notification will come.
  if (taken < data.size() && queue->has_available()) process_later(kReceive);
  return taken;
}

void VirtioConsole::resized() {
  follow_size();
}

void VirtioConsole::follow_size() {
  if (!running()) return;  // on_start() looks again
  const CharSize size = backend_.size();
  if (size == CharSize() || size == state_.load().size) return;
  state_ = State{size};
  run().transport->interrupt_config();
}

Result<UnitState> VirtioConsole::save() const {
  const auto& [size] = state_.load();
  state::VirtioConsole message;
  message.set_columns(size.columns);
  message.set_rows(size.rows);
  return pack_state(message);
}

Status VirtioConsole::restore(const UnitState& state) {
  state::VirtioConsole message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  if (message.columns() > 0xffff || message.rows() > 0xffff) {
    return fail(ErrorCode::BadRequest, "unit {}: a terminal of {} columns and {} rows", unit_name(),
                message.columns(), message.rows());
  }
  State next;
  auto& [size] = next;
  size = {static_cast<std::uint16_t>(message.columns()), static_cast<std::uint16_t>(message.rows())};
  state_ = next;
  return {};
}

void VirtioConsole::reset() {
  state_ = State{backend_.size()};
}

std::map<std::string, std::int64_t> VirtioConsole::counters() const {
  const CharCounters host = backend_.counters();
  return {{"rx_bytes", rx_bytes_},
          {"rx_dropped", static_cast<std::int64_t>(host.rx_dropped)},
          {"tx_bytes", tx_bytes_},
          {"tx_dropped", tx_refused_ + static_cast<std::int64_t>(host.tx_dropped)},
          {"tx_queued", static_cast<std::int64_t>(host.tx_queued)}};
}

}  // namespace vmmd::devices
