#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>

#include "base/result.h"

namespace vmmd {

/// A thread for work that may take long and cannot be interrupted (fsync, reading all of a file), so that
/// whoever waits for it may stop waiting. Runs what it is given one at a time, in order. The thread starts
/// with the first work and blocks all signals but those of a fault.
class SideThread {
 public:
  /// `name` is a literal of at most 15 characters: what ps shows.
  explicit SideThread(const char* name) : name_(name) {}
  /// Waits for everything it was given.
  ~SideThread();
  SideThread(const SideThread&) = delete;
  SideThread& operator=(const SideThread&) = delete;

  /// Runs `work` sometime and forgets it. From any thread. Right here where no thread is to be had.
  void post(std::function<void()> work);

  /// Runs `work` and waits for its outcome; nothing when `stop` came first. Then `work` still runs to its
  /// end, and what it owns is released on this thread: give it all that it needs, by value.
  std::optional<Status> run(std::function<Status()> work, const std::stop_token& stop);

 private:
  bool start();
  void main();

  const char* name_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> work_;  // guarded by mutex_
  bool closed_ = false;                     // guarded by mutex_
  std::thread thread_;                      // guarded by mutex_ until closed_
};

}  // namespace vmmd
