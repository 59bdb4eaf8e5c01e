#include <sys/eventfd.h>

#include <algorithm>
#include <utility>

#include "devices/virtio/pci_transport.h"

namespace vmmd::devices {

void VirtioPci::pause(std::function<void()> done) {
  const Lock lock(mutex_);
  paused_ = true;
  paused_done_ = std::move(done);
  post_reconcile();
}

void VirtioPci::resume() {
  const Lock lock(mutex_);
  paused_ = false;
  post_reconcile();
}

bool VirtioPci::is_stopping() const {
  const Lock lock(mutex_);
  const auto& queues = registers_.state().queues;
  return phase_ == Phase::Stopping ||
         (phase_ == Phase::Running &&
          std::any_of(queues.begin(), queues.end(), [](const auto& queue) { return queue.resetting; }));
}

bool VirtioPci::waits_for_host() const {
  const Lock lock(mutex_);
  const auto& queues = registers_.state().queues;
  return std::any_of(queues.begin(), queues.end(),
                     [](const auto& queue) { return !queue.ring.returned.empty(); });
}

void VirtioPci::post_reconcile() {
  if (std::exchange(posted_, true)) return;
  device_.loop().post([alive = std::weak_ptr(alive_)] {
    if (const auto self = alive.lock()) (*self)->reconcile();
  });
}

bool VirtioPci::should_run() const {
  return registers_.live() && (space_.command() & kPciCommandBusMaster) != 0 && !paused_;
}

bool VirtioPci::start_ring(unsigned index, Queue& queue) const {
  return queue
      .start(*glue_.memory, registers_.state().queues.at(index).ring, registers_.has_feature(kVirtioEventIdx),
             registers_.has_feature(kVirtioIndirectDesc))
      .has_value();
}

bool VirtioPci::rings_valid() const {
  for (unsigned i = 0; i < queues_.size(); ++i) {
    const auto& queue = registers_.state().queues[i];
    Queue probe;
    if (queue.ring.enabled && !queue.resetting && !start_ring(i, probe)) return false;
  }
  return true;
}

void VirtioPci::reconcile() {
  Lock lock(mutex_);
  posted_ = false;
  if (phase_ == Phase::Stopping && stopped_) finish_stop();
  if (phase_ == Phase::Running && should_run()) {
    reconcile_queues(lock);
  } else if (phase_ == Phase::Running) {
    begin_stop(lock);
  } else if (phase_ == Phase::Stopped) {
    settle(lock);
  }
}

/// Stopped: what waited for that, then start, or tell that the pause is complete.
void VirtioPci::settle(Lock& lock) {
  if (registers_.state().resetting) {
    registers_.reset();
    intx_.set_pending(false);
    reset_device_ = true;
  }
  for (unsigned i = 0; i < queues_.size(); ++i) {
    if (registers_.state().queues[i].resetting) registers_.reset_queue(i);
  }
  if (std::exchange(reset_device_, false)) {
    lock.unlock();
    device_.reset();
    lock.lock();
  }
  sync_io_events();
  if (should_run()) {
    start(lock);
  } else if (paused_ && paused_done_ && !posted_) {
    const auto done = std::exchange(paused_done_, nullptr);
    lock.unlock();
    done();
  }
}

void VirtioPci::start(Lock& lock) {
  for (unsigned i = 0; i < queues_.size(); ++i) {
    const auto& queue = registers_.state().queues[i];
    if (queue.ring.enabled && !queue.resetting && start_ring(i, queues_[i])) runs_[i].phase = QueuePhase::On;
  }
  phase_ = Phase::Running;
  stopped_ = false;
  const std::uint64_t features = registers_.state().driver_features;
  lock.unlock();
  for (unsigned i = 0; i < queues_.size(); ++i) {
    if (runs_[i].phase == QueuePhase::On) watch(i);
  }
  device_.start({glue_.memory, this, queues_, features});
  lock.lock();
}

void VirtioPci::watch(unsigned index) {
  auto watching = device_.loop().watch(runs_[index].notified.get(), FdEvent::Readable, [this, index] {
    eventfd_t count = 0;
    if (::eventfd_read(runs_[index].notified.get(), &count) != 0) return;
    counters_.notifications.fetch_add(1, std::memory_order_relaxed);
    device_.notify(index);
  });
  if (watching) {
    runs_[index].watch = std::move(*watching);
  } else {
    needs_reset("the host cannot watch for notifications");
  }
}

void VirtioPci::begin_stop(Lock& lock) {
  for (unsigned i = 0; i < queues_.size(); ++i) {
    if (runs_[i].phase != QueuePhase::Stopping) continue;
    if (!runs_[i].stopped) return;  // one thing at a time: its end posts again
    finish_queue_stop(i);
  }
  phase_ = Phase::Stopping;
  lock.unlock();
  for (QueueRun& run : runs_) run.watch.reset();
  device_.stop([this] {
    stopped_ = true;
    const Lock relock(mutex_);
    post_reconcile();
  });
  lock.lock();
}

void VirtioPci::finish_stop() {
  for (unsigned i = 0; i < queues_.size(); ++i) {
    if (runs_[i].phase != QueuePhase::On) continue;
    Queue::State& ring = registers_.state().queues[i].ring;
    ring.next_avail = queues_[i].state().next_avail;
    ring.next_used = queues_[i].state().next_used;
    ring.returned = queues_[i].state().returned;
    queues_[i].stop();
    runs_[i].phase = QueuePhase::Off;
  }
  phase_ = Phase::Stopped;
}

void VirtioPci::finish_queue_stop(unsigned index) {
  queues_[index].stop();
  runs_[index].phase = QueuePhase::Off;
  registers_.reset_queue(index);
}

/// Queues that the driver resets or enables while the device runs. The lock is let go for each call to the
/// device; phase_ stays Running, since only this thread changes it.
void VirtioPci::reconcile_queues(Lock& lock) {
  for (unsigned i = 0; i < queues_.size(); ++i) {
    QueueRun& run = runs_[i];
    const auto& queue = registers_.state().queues[i];
    if (run.phase == QueuePhase::Stopping && run.stopped) finish_queue_stop(i);
    if (run.phase == QueuePhase::Off && queue.resetting) registers_.reset_queue(i);
    if (run.phase == QueuePhase::On && queue.resetting) {
      run.phase = QueuePhase::Stopping;
      run.stopped = false;
      lock.unlock();
      run.watch.reset();
      device_.stop_queue(i, [this, i] {
        runs_[i].stopped = true;
        const Lock relock(mutex_);
        post_reconcile();
      });
      lock.lock();
    } else if (run.phase == QueuePhase::Off && queue.ring.enabled && start_ring(i, queues_[i])) {
      run.phase = QueuePhase::On;
      lock.unlock();
      watch(i);
      device_.start_queue(i);
      lock.lock();
    }
  }
  sync_io_events();
}

}  // namespace vmmd::devices
