#include "daemon/control/command_queue.h"

#include <pthread.h>
#include <signal.h>

#include <utility>

#include "base/signals.h"

namespace vmmd::control {

CommandQueue::~CommandQueue() {
  close();
}

void CommandQueue::start() {
  // Signals are the API thread's business: the new thread, and all that it starts, block them.
  const sigset_t all = all_but_faults();
  sigset_t before;
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void CommandQueue::post(std::function<void()> command) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    commands_.push_back(std::move(command));
  }
  changed_.notify_one();
}

void CommandQueue::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void CommandQueue::run() {
  pthread_setname_np(pthread_self(), "vm");
  while (true) {
    std::function<void()> command;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return closed_ || !commands_.empty(); });
      if (commands_.empty()) return;
      command = std::move(commands_.front());
      commands_.pop_front();
    }
    command();
  }
}

}  // namespace vmmd::control
