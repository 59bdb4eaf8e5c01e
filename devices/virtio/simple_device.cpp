#include "devices/virtio/simple_device.h"

#include <utility>

namespace vmmd::devices {

void SimpleDevice::start(const VirtioRun& run) {
  run_ = run;
  alive_ = std::make_shared<const int>(0);
  stopped_.reset();
  reported_broken_ = false;
  on_start();
  for (unsigned i = 0; i < run_.queues.size(); ++i) process(i);
}

void SimpleDevice::stop(std::function<void()> stopped) {
  if (running()) {
    on_stop();
    alive_.reset();
    run_ = {};
  }
  stopped();
}

void SimpleDevice::stop_queue(unsigned index, std::function<void()> stopped) {
  if (index < kMaxQueues) stopped_.set(index);
  if (running()) on_stop_queue(index);
  stopped();
}

void SimpleDevice::start_queue(unsigned index) {
  if (index < kMaxQueues) stopped_.reset(index);
  process(index);
}

Queue* SimpleDevice::queue(unsigned index) {
  if (!running() || index >= run_.queues.size() || index >= kMaxQueues || stopped_.test(index))
    return nullptr;
  Queue& queue = run_.queues[index];
  return queue.running() ? &queue : nullptr;
}

void SimpleDevice::process(unsigned index) {
  Queue* const queue = this->queue(index);
  if (queue == nullptr) return;
  queue->disable_notifications();
  turn_cost_ = 0;
  for (unsigned round = 0;; ++round) {
    if (round == kBatch || turn_is_over()) {
      process_later(index);
      break;
    }
    if (!queue->pop(chain_)) {
      if (queue->broken() != nullptr || !queue->enable_notifications()) break;
      queue->disable_notifications();
      continue;
    }
    const std::optional<std::uint32_t> written = handle(index, chain_);
    if (!written) {
      queue->undo_pop();
      if (turn_is_over()) process_later(index);
      break;
    }
    queue->push(chain_, *written);
  }
  publish(index);
  after_turn(index);
}

void SimpleDevice::process_later(unsigned index) {
  loop_.post([this, index, alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) process(index);
  });
}

void SimpleDevice::publish(unsigned index) {
  Queue& queue = run_.queues[index];
  if (queue.flush()) run_.transport->interrupt_queue(index);
  if (queue.broken() != nullptr && !reported_broken_) {
    reported_broken_ = true;
    run_.transport->needs_reset(queue.broken());
  }
}

}  // namespace vmmd::devices
