#pragma once

#include <mutex>
#include <utility>
#include <vector>

#include "devices/interrupt.h"

namespace vmmd::testing {

/// A line that remembers every call and its level. Thread-safe.
class FakeInterruptLine final : public devices::InterruptLine {
 public:
  void set_level(bool high) override {
    const std::lock_guard lock(mutex_);
    if (high && !level_) ++rising_edges_;
    level_ = high;
    ++calls_;
  }
  [[nodiscard]] bool level() const {
    const std::lock_guard lock(mutex_);
    return level_;
  }
  [[nodiscard]] unsigned rising_edges() const {
    const std::lock_guard lock(mutex_);
    return rising_edges_;
  }
  [[nodiscard]] unsigned calls() const {
    const std::lock_guard lock(mutex_);
    return calls_;
  }

 private:
  mutable std::mutex mutex_;
  bool level_ = false;
  unsigned rising_edges_ = 0;
  unsigned calls_ = 0;
};

/// Remembers every message. Thread-safe.
class FakeMsiSink final : public devices::MsiSink {
 public:
  void signal(devices::MsiMessage message) override {
    const std::lock_guard lock(mutex_);
    messages_.push_back(message);
  }
  [[nodiscard]] std::vector<devices::MsiMessage> messages() const {
    const std::lock_guard lock(mutex_);
    return messages_;
  }
  /// The messages since the last take().
  std::vector<devices::MsiMessage> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(messages_, {});
  }

 private:
  mutable std::mutex mutex_;
  std::vector<devices::MsiMessage> messages_;
};

}  // namespace vmmd::testing
