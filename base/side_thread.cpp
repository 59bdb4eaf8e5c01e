#include "base/side_thread.h"

#include <pthread.h>

#include <memory>
#include <system_error>
#include <utility>

#include "base/signals.h"

namespace vmmd {

SideThread::~SideThread() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

// With mutex_ held.
bool SideThread::start() {
  if (thread_.joinable()) return true;
  const sigset_t blocked = all_but_faults();
  sigset_t before;
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  try {
    thread_ = std::thread([this] { main(); });
    // NOLINTNEXTLINE(bugprone-empty-catch): the caller does the work itself
  } catch (const std::system_error&) {
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread_.joinable();
}

void SideThread::post(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    if (start()) {
      work_.push_back(std::move(work));
      work = nullptr;
    }
  }
  if (work) return work();
  changed_.notify_one();
}

std::optional<Status> SideThread::run(std::function<Status()> work, const std::stop_token& stop) {
  struct Shared {
    std::mutex mutex;
    std::condition_variable_any changed;
    std::function<Status()> work;
    std::optional<Status> outcome;  // guarded by mutex
  };
  auto shared = std::make_shared<Shared>();
  shared->work = std::move(work);
  post([shared] {
    Status outcome = shared->work();
    shared->work = nullptr;  // what it owns goes before anybody is told
    const std::lock_guard lock(shared->mutex);
    shared->outcome = std::move(outcome);
    shared->changed.notify_one();
  });
  std::unique_lock lock(shared->mutex);
  shared->changed.wait(lock, stop, [&] { return shared->outcome.has_value(); });
  return std::move(shared->outcome);
}

void SideThread::main() {
  pthread_setname_np(pthread_self(), name_);
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return closed_ || !work_.empty(); });
    if (work_.empty()) return;
    auto work = std::move(work_.front());
    work_.pop_front();
    lock.unlock();
    work();
    work = nullptr;
    lock.lock();
  }
}

}  // namespace vmmd
