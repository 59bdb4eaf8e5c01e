#include "devices/virtio/net_rx.h"

#include <algorithm>
#include <array>
#include <utility>

#include "devices/virtio/net_protocol.h"

namespace vmmd::devices {

namespace {

/// Room for every frame: what is held ready with MRG_RXBUF.
constexpr std::uint64_t kFullRoom = kNetHeaderSize + kMaxFrameSize;
/// Room for a frame of the usual MTU: less is held ready where the driver's whole ring has no more.
constexpr std::uint64_t kLeastRoom = kNetHeaderSize + 1518;
/// One below IOV_MAX: backends add one of their own.
constexpr std::size_t kMaxBuffers = 1023;

}  // namespace

NetReceiver::NetReceiver(NetLink& link, unsigned pair, unsigned queue_index, std::uint16_t queue_size,
                         std::shared_ptr<RateLimiter> limiter)
    : link_(link),
      pair_(pair),
      queue_index_(queue_index),
      held_(queue_size),
      turn_(link, [this] { run(); }),
      limit_(std::move(limiter), link.loop, [this] { run(); }) {
  buffers_.reserve(kMaxBuffers);
}

void NetReceiver::start(Queue& queue) {
  queue_ = &queue;
  broken_ = false;
  queue_->disable_notifications();
  run();
}

void NetReceiver::stop() {
  if (queue_ == nullptr) return;
  // The latest chains that were popped, so the ring is as if they had never been taken.
  for (; count_ > 0; --count_) queue_->undo_pop();
  capacity_ = 0;
  segments_ = 0;
  first_ = 0;
  starved_ = false;
  flush();
  incoming_.reset();
  queue_ = nullptr;
}

void NetReceiver::flush() {
  if (queue_->flush()) link_.transport->interrupt_queue(queue_index_);
}

void NetReceiver::give_up(const char* reason) {
  broken_ = true;
  incoming_.reset();
  flush();
  link_.transport->needs_reset(reason);
}

bool NetReceiver::hold_one() {
  if (count_ == held_.size()) return false;
  Chain& chain = held(count_);
  if (!queue_->pop(chain)) return false;
  const std::uint64_t room = chain.writable_size();
  ++count_;
  capacity_ += room;
  segments_ += chain.writable.size();
  // Room for the header at least: num_buffers is written into the first chain of a frame.
  if (room >= kNetHeaderSize && chain.readable.empty()) return true;
  give_up("a receive buffer is not writable, or has no room for a header");
  return false;
}

// Whether there is room to receive. Where the driver may still add buffers we wait for room for the longest
// frame; one that has put half a ring of them there has no more to give.
bool NetReceiver::hold_buffers() {
  if (!link_.merge_buffers) return count_ == 1 || hold_one();
  while (capacity_ < kFullRoom && segments_ < kMaxBuffers && hold_one()) {
  }
  if (broken_) return false;
  return capacity_ >= kFullRoom || segments_ >= kMaxBuffers ||
         (capacity_ >= kLeastRoom && 2 * segments_ >= queue_->state().size);
}

// As hold_buffers(), and if there are too few, sees to it that the driver tells of new ones.
bool NetReceiver::buffers_ready() {
  while (!hold_buffers()) {
    if (broken_) return false;
    starved_ = true;
    if (queue_->enable_notifications()) continue;
    if (queue_->broken() != nullptr) {
      give_up(queue_->broken());
      return false;
    }
    incoming_.reset();
    flush();
    return false;
  }
  if (std::exchange(starved_, false)) queue_->disable_notifications();
  return true;
}

void NetReceiver::run() {
  if (queue_ == nullptr || broken_) return;
  unsigned frames = 0;
  std::uint64_t bytes = 0;
  while (buffers_ready()) {
    if (link_.backend.fd(pair_) < 0) {
      flush();
      return link_.failed();
    }
    if (frames++ == kNetTurnFrames || bytes > kNetTurnBytes) {
      flush();
      return turn_.request();
    }
    // How long a frame is shows when it is here: its bytes are paid before the next.
    if (!paid_ && !limit_.take(owed_)) {
      ++link_.counters.limited;
      incoming_.reset();
      return flush();
    }
    if (!std::exchange(paid_, true)) owed_ = 0;
    std::size_t size = 0;
    switch (receive(size)) {
      case NetIo::Done:
        paid_ = false;
        owed_ = size - kNetHeaderSize;
        bytes += size;
        deliver(size);
        if (broken_) return;
        if (frames % kNetPublishFrames == 0) queue_->publish();
        break;
      case NetIo::Dropped:
        ++link_.counters.rx_dropped;
        break;
      case NetIo::Again:
        flush();
        return watch();
      case NetIo::Failed:
        flush();
        return link_.failed();
    }
  }
}

void NetReceiver::watch() {
  if (incoming_) return;
  auto watch = link_.loop.watch(link_.backend.fd(pair_), FdEvent::Readable, [this] { run(); });
  if (watch) {
    incoming_ = std::move(*watch);
  } else {
    link_.failed();  // deaf for good: no descriptors or memory on the host
  }
}

NetIo NetReceiver::receive(std::size_t& size) {
  buffers_.clear();
  for (std::size_t i = 0; i < count_; ++i) {
    for (const Segment& segment : held(i).writable) {
      if (buffers_.size() < kMaxBuffers) buffers_.push_back({segment.host, segment.length});
    }
  }
  const NetIo outcome = link_.backend.receive(pair_, buffers_, size);
  // Not a frame: a backend gives at least a header.
  return outcome == NetIo::Done && size < kNetHeaderSize ? NetIo::Dropped : outcome;
}

void NetReceiver::deliver(std::size_t size) {
  std::uint16_t chains = 0;
  for (std::uint64_t room = 0; room < size && chains < count_; ++chains) room += held(chains).writable_size();
  const std::array<std::byte, 2> num_buffers{static_cast<std::byte>(chains & 0xffU),
                                             static_cast<std::byte>(chains >> 8U)};
  if (!held(0).copy_in(kNetNumBuffersOffset, num_buffers)) return give_up("a receive buffer is too small");
  std::uint64_t rest = size;
  for (std::uint16_t i = 0; i < chains; ++i) {
    const Chain& chain = held(0);
    const std::uint64_t room = chain.writable_size();
    const std::uint64_t written = std::min(rest, room);
    rest -= written;
    capacity_ -= room;
    segments_ -= chain.writable.size();
    queue_->push(chain, static_cast<std::uint32_t>(written));
    first_ = (first_ + 1) % held_.size();
    --count_;
  }
  ++link_.counters.rx_frames;
  link_.counters.rx_bytes += static_cast<std::int64_t>(size - kNetHeaderSize);
}

}  // namespace vmmd::devices
