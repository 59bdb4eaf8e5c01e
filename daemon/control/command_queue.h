#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace vmmd::control {

/// The VM thread: runs what is posted, one at a time, in order. Whatever owns or changes the VM happens here.
class CommandQueue {
 public:
  CommandQueue() = default;
  ~CommandQueue();  // close()
  CommandQueue(const CommandQueue&) = delete;
  CommandQueue& operator=(const CommandQueue&) = delete;

  /// Starts the thread; once. Commands posted before wait for it.
  void start();
  /// From any thread; never blocks. Dropped once closed.
  void post(std::function<void()> command);
  /// Runs what is queued, then ends the thread and joins it. Not from the VM thread.
  void close();

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> commands_;
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace vmmd::control
