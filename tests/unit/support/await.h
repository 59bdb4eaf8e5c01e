#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace vmmd::testing {

/// How long a test waits for what must happen before it fails.
inline constexpr std::chrono::seconds kDeadline{10};

/// Something that happens on another thread, any number of times.
class Happening {
 public:
  void happen() {
    const std::lock_guard lock(mutex_);
    ++count_;
    changed_.notify_all();
  }
  /// False after kDeadline.
  [[nodiscard]] bool wait_for(unsigned count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kDeadline, [&] { return count_ >= count; });
  }
  [[nodiscard]] unsigned count() const {
    const std::lock_guard lock(mutex_);
    return count_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  unsigned count_ = 0;
};

}  // namespace vmmd::testing
