#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace vmmd::snapshot {

/// How many bytes to read or write at once: a cancel waits for no more than that, and a system call that
/// waits for the disk cannot be left. Little where the disk is slow; where the page cache takes it, no more
/// than stays in a CPU's cache between looking, copying and hashing: 2 MiB at once took a third longer, and
/// whoever woke on that CPU waited for it.
/// Several threads of one job share it.
class Pace {
 public:
  static constexpr std::uint64_t kLeast = 64 << 10, kMost = 128 << 10;
  static constexpr std::chrono::milliseconds kSlow{10}, kFast{1};

  [[nodiscard]] std::uint64_t piece() const { return piece_.load(std::memory_order_relaxed); }

  /// `bytes` of a piece() have taken so long.
  void took(std::uint64_t bytes, std::chrono::nanoseconds time) {
    const std::uint64_t piece = this->piece();
    if (time > kSlow) {
      piece_.store(std::max(kLeast, piece / 4), std::memory_order_relaxed);
    } else if (time < kFast && bytes == piece) {
      piece_.store(std::min(kMost, piece * 2), std::memory_order_relaxed);
    }
  }

 private:
  std::atomic<std::uint64_t> piece_ = kLeast;
};

}  // namespace vmmd::snapshot
