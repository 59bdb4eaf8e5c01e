#pragma once

#include <functional>
#include <memory>

#include "base/result.h"

namespace vmmd::devices {

/// Watches a file descriptor until it is destroyed. Destroy it on the loop's thread, or while the loop does
/// not run.
class FdWatch {
 public:
  virtual ~FdWatch() = default;
};

enum class FdEvent { Readable, Writable };

/// The thread on which a device does its work: runs what is posted, in order, and waits for descriptors. A
/// device has one, given to it, and touches its queues and backends there only; so it needs no locks for
/// them.
class EventLoop {
 public:
  virtual ~EventLoop() = default;

  /// Runs `work` on the loop's thread, in the order of the calls. From any thread; never blocks, never runs
  /// it inside post().
  virtual void post(std::function<void()> work) = 0;

  /// Calls `ready` on the loop's thread whenever `fd` is ready (level-triggered: again and again as long as
  /// it is; so drop the watch while nothing is to be done). `fd` stays the caller's and outlives the watch.
  /// On the loop's thread, or while the loop does not run. `ready` may destroy the watch.
  virtual Result<std::unique_ptr<FdWatch>> watch(int fd, FdEvent event, std::function<void()> ready) = 0;
};

}  // namespace vmmd::devices
