#pragma once

#include <functional>
#include <memory>

#include "daemon/loop/device_loop.h"

namespace vmmd::control {

/// Says when guest RAM has lost a page (see memory::RamGuard).
class MemoryWatch {
 public:
  /// Calls `lost` once, on the loop's thread, when `fd` is readable. Loop and `fd` outlive this. Does not
  /// wait for the loop, because a restore does not.
  MemoryWatch(loop::DeviceLoop& loop, int fd, std::function<void()> lost);
  /// Afterwards `lost` is not called any more.
  ~MemoryWatch();
  MemoryWatch(const MemoryWatch&) = delete;
  MemoryWatch& operator=(const MemoryWatch&) = delete;

 private:
  struct State {
    std::function<void()> lost;
    std::unique_ptr<devices::FdWatch> watch;  // the loop's thread
  };
  loop::DeviceLoop& loop_;
  std::shared_ptr<State> state_;
};

}  // namespace vmmd::control
