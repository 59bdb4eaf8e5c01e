#include "devices/virtio/net_control.h"

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <utility>

#include "devices/virtio/net_protocol.h"

namespace vmmd::devices {

namespace {

constexpr unsigned kTurnCommands = 16;  // they cost ioctls
constexpr std::uint64_t kDataOffset = 2;

/// A little-endian number of `size` bytes behind class and command.
std::optional<std::uint64_t> argument(const Chain& chain, std::size_t size) {
  std::array<std::byte, 8> bytes{};
  if (!chain.copy_out(kDataOffset, std::span(bytes).first(size))) return std::nullopt;
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < size; ++i) value |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
  return value;
}

}  // namespace

void NetControl::start(Queue& queue, unsigned queue_index) {
  queue_ = &queue;
  queue_index_ = queue_index;
  told_broken_ = false;
  run();
}

void NetControl::stop() {
  if (queue_ == nullptr) return;
  flush();
  queue_ = nullptr;
}

void NetControl::flush() {
  if (queue_->flush()) link_.transport->interrupt_queue(queue_index_);
}

void NetControl::run() {
  if (queue_ == nullptr) return;
  unsigned commands = 0;
  do {
    while (queue_->pop(chain_)) {
      if (commands++ == kTurnCommands) {
        queue_->undo_pop();
        flush();
        return turn_.request();
      }
      const bool fine = execute();
      ++link_.counters.control_commands;
      if (!fine) ++link_.counters.control_refused;
      const std::array<std::byte, 1> answer{std::byte{fine ? kNetCtrlOk : kNetCtrlError}};
      const bool room = chain_.copy_in(0, answer);
      queue_->push(chain_, room ? 1 : 0);
    }
    flush();
  } while (queue_->enable_notifications());
  if (queue_->broken() != nullptr && !std::exchange(told_broken_, true)) {
    link_.transport->needs_reset(queue_->broken());
  }
}

bool NetControl::execute() {
  std::array<std::byte, kDataOffset> header{};
  if (!chain_.copy_out(0, header)) return false;
  const auto kind =
      std::pair(std::to_integer<std::uint8_t>(header[0]), std::to_integer<std::uint8_t>(header[1]));
  if (kind == std::pair(kNetCtrlMultiQueue, kNetCtrlPairsSet)) {
    const auto pairs = argument(chain_, 2);
    return pairs && controlled_.set_active_pairs(static_cast<unsigned>(*pairs));
  }
  if (kind == std::pair(kNetCtrlOffloads, kNetCtrlOffloadsSet)) {
    const auto features = argument(chain_, 8);
    return features && controlled_.set_guest_offloads(*features);
  }
  if (kind == std::pair(kNetCtrlAnnounce, kNetCtrlAnnounceAck)) return controlled_.acknowledge_announce();
  return false;
}

}  // namespace vmmd::devices
