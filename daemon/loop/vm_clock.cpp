#include "daemon/loop/vm_clock.h"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

namespace vmmd::loop {

namespace asio = boost::asio;

namespace {

std::uint64_t read_ns(clockid_t id) {
  timespec now = {};
  ::clock_gettime(id, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

/// steady_clock is CLOCK_MONOTONIC with GCC's library. Further away than this (13 years) is as good as never,
/// and keeps arithmetic on time points from overflowing.
constexpr std::uint64_t kFarNs = std::uint64_t{1} << 58;

}  // namespace

// Everything below is guarded by `mutex`, Asio's timers too: they are not thread-safe, the io_context is.
struct VmClock::Shared {
  /// What a completion handler holds on to: it may run after its timer is gone.
  struct Entry {
    Entry(asio::io_context& context, std::function<void()> f) : timer(context), callback(std::move(f)) {}
    asio::steady_timer timer;
    std::function<void()> callback;
    std::uint64_t deadline_ns = 0;  // guest time
    std::uint64_t generation = 0;   // completions of earlier waits are stale
    bool armed = false;
  };

  explicit Shared(DeviceLoop& l) : loop(l) {}

  [[nodiscard]] std::uint64_t now() const {
    return frozen ? guest_ns : guest_ns + (read_ns(CLOCK_MONOTONIC) - host_ns);
  }

  void schedule(const std::shared_ptr<Entry>& entry, const std::shared_ptr<Shared>& self) {
    const std::uint64_t guest_now = now();
    const std::uint64_t wait = entry->deadline_ns > guest_now ? entry->deadline_ns - guest_now : 0;
    entry->timer.expires_after(std::chrono::nanoseconds(std::min(wait, kFarNs)));
    const std::uint64_t generation = ++entry->generation;
    entry->timer.async_wait([self, entry, generation](const boost::system::error_code&) {
      self->expire(entry, generation, self);
    });
  }

  void unschedule(Entry& entry) {
    ++entry.generation;
    entry.timer.cancel();
  }

  void expire(const std::shared_ptr<Entry>& entry, std::uint64_t generation,
              const std::shared_ptr<Shared>& self) {
    std::unique_lock lock(mutex);
    if (generation != entry->generation || !entry->armed || frozen) return;
    if (entry->deadline_ns > now()) {  // it was further away than kFarNs
      schedule(entry, self);
      return;
    }
    entry->armed = false;
    running = entry.get();
    lock.unlock();
    entry->callback();
    lock.lock();
    running = nullptr;
    idle.notify_all();
  }

  DeviceLoop& loop;
  std::atomic<std::int64_t> wall_offset_ns = 0;  // not under the mutex
  std::mutex mutex;
  std::condition_variable idle;
  bool frozen = true;
  std::uint64_t guest_ns = 0;  // guest time at host_ns; the time it stands at while frozen
  std::uint64_t host_ns = 0;   // CLOCK_MONOTONIC at the last thaw
  const Entry* running = nullptr;
  std::vector<std::shared_ptr<Entry>> entries;
};

class VmClock::LoopTimer final : public devices::Timer {
 public:
  LoopTimer(std::shared_ptr<Shared> shared, std::function<void()> callback)
      : shared_(std::move(shared)),
        entry_(std::make_shared<Shared::Entry>(shared_->loop.asio_context(), std::move(callback))) {
    const std::lock_guard lock(shared_->mutex);
    shared_->entries.push_back(entry_);
  }

  ~LoopTimer() override {
    std::unique_lock lock(shared_->mutex);
    entry_->armed = false;
    shared_->unschedule(*entry_);
    std::erase(shared_->entries, entry_);
    // A callback that destroys its own timer must not wait for itself.
    if (!shared_->loop.on_loop_thread()) {
      shared_->idle.wait(lock, [this] { return shared_->running != entry_.get(); });
    }
  }

  void arm(std::uint64_t deadline_ns) override {
    const std::lock_guard lock(shared_->mutex);
    entry_->deadline_ns = deadline_ns;
    entry_->armed = true;
    if (!shared_->frozen) shared_->schedule(entry_, shared_);
  }

  void cancel() override {
    const std::lock_guard lock(shared_->mutex);
    if (!entry_->armed) return;
    entry_->armed = false;
    shared_->unschedule(*entry_);
  }

 private:
  std::shared_ptr<Shared> shared_;
  std::shared_ptr<Shared::Entry> entry_;
};

VmClock::VmClock(DeviceLoop& loop) : shared_(std::make_shared<Shared>(loop)) {}

VmClock::~VmClock() = default;

std::uint64_t VmClock::monotonic_ns() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->now();
}

std::int64_t VmClock::realtime_ns() const {
  return static_cast<std::int64_t>(read_ns(CLOCK_REALTIME)) + wall_offset_ns();
}

void VmClock::set_wall_offset_ns(std::int64_t ns) {
  shared_->wall_offset_ns = ns;
}

std::int64_t VmClock::wall_offset_ns() const {
  return shared_->wall_offset_ns;
}

std::unique_ptr<devices::Timer> VmClock::make_timer(std::function<void()> callback) {
  return std::make_unique<LoopTimer>(shared_, std::move(callback));
}

void VmClock::freeze() {
  std::unique_lock lock(shared_->mutex);
  if (!shared_->frozen) {
    shared_->guest_ns = shared_->now();
    shared_->frozen = true;
    for (const auto& entry : shared_->entries) {
      if (entry->armed) shared_->unschedule(*entry);
    }
  }
  if (!shared_->loop.on_loop_thread()) {
    shared_->idle.wait(lock, [this] { return shared_->running == nullptr; });
  }
}

void VmClock::thaw() {
  const std::lock_guard lock(shared_->mutex);
  if (!shared_->frozen) return;
  shared_->host_ns = read_ns(CLOCK_MONOTONIC);
  shared_->frozen = false;
  for (const auto& entry : shared_->entries) {
    if (entry->armed) shared_->schedule(entry, shared_);
  }
}

bool VmClock::frozen() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->frozen;
}

void VmClock::set_monotonic_ns(std::uint64_t ns) {
  const std::lock_guard lock(shared_->mutex);
  if (!shared_->frozen) shared_->host_ns = read_ns(CLOCK_MONOTONIC);
  shared_->guest_ns = ns;
}

}  // namespace vmmd::loop
