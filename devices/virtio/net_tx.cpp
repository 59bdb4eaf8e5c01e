#include "devices/virtio/net_tx.h"

#include <utility>

namespace vmmd::devices {

namespace {

constexpr std::size_t kEthernetHeader = 14;  // bytes; shorter is no frame

}  // namespace

NetTransmitter::NetTransmitter(NetLink& link, unsigned pair, unsigned queue_index,
                               std::shared_ptr<RateLimiter> limiter)
    : link_(link),
      pair_(pair),
      queue_index_(queue_index),
      turn_(link, [this] { run(); }),
      limit_(std::move(limiter), link.loop, [this] { run(); }) {
  buffers_.reserve(Queue::kMaxSize);
}

void NetTransmitter::start(Queue& queue) {
  queue_ = &queue;
  told_broken_ = false;
  run();
}

void NetTransmitter::stop() {
  if (queue_ == nullptr) return;
  flush();
  room_.reset();
  queue_ = nullptr;
}

void NetTransmitter::flush() {
  if (queue_->flush()) link_.transport->interrupt_queue(queue_index_);
}

void NetTransmitter::run() {
  if (queue_ == nullptr) return;
  room_.reset();
  unsigned frames = 0;
  std::uint64_t bytes = 0;
  do {
    queue_->disable_notifications();
    while (queue_->pop(chain_)) {
      if (frames++ == kNetTurnFrames || bytes > kNetTurnBytes) {
        queue_->undo_pop();
        flush();
        return turn_.request();
      }
      if (!send_chain()) {
        queue_->undo_pop();
        return flush();
      }
      bytes += chain_.readable_size();
      queue_->push(chain_, 0);
      if (frames % kNetPublishFrames == 0) queue_->publish();
    }
    flush();
  } while (queue_->enable_notifications());
  if (queue_->broken() != nullptr && !std::exchange(told_broken_, true)) {
    link_.transport->needs_reset(queue_->broken());
  }
}

// False: not now; run() is called when it is worth trying again.
bool NetTransmitter::send_chain() {
  const std::uint64_t size = chain_.readable_size();
  const bool gone = link_.backend.fd(pair_) < 0;
  if (gone) link_.failed();
  if (gone || size < kNetHeaderSize + kEthernetHeader || size > kNetHeaderSize + kMaxFrameSize) {
    ++link_.counters.tx_dropped;
    return true;
  }
  if (!paid_ && !limit_.take(size - kNetHeaderSize)) {
    ++link_.counters.limited;
    return false;
  }
  paid_ = true;
  buffers_.clear();
  for (const Segment& segment : chain_.readable) buffers_.push_back({segment.host, segment.length});
  switch (link_.backend.send(pair_, buffers_)) {
    case NetIo::Done:
      ++link_.counters.tx_frames;
      link_.counters.tx_bytes += static_cast<std::int64_t>(size - kNetHeaderSize);
      break;
    case NetIo::Again: {
      auto watch = link_.loop.watch(link_.backend.fd(pair_), FdEvent::Writable, [this] { run(); });
      if (watch) {
        room_ = std::move(*watch);
        return false;
      }
      ++link_.counters.tx_dropped;
      break;
    }
    case NetIo::Dropped:
      ++link_.counters.tx_dropped;
      break;
    case NetIo::Failed:
      ++link_.counters.tx_dropped;
      link_.failed();
      break;
  }
  paid_ = false;
  return true;
}

}  // namespace vmmd::devices
