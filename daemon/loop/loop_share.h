#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "daemon/loop/device_loop.h"

namespace vmmd::loop {

/// A device's share of a loop, which others have shares of, too: what it gives to the loop bears its number,
/// so that who waits for the thread can be told from who holds it up.
class LoopShare final : public devices::EventLoop {
 public:
  /// `loop` outlives the share; what was given to it does not need the share.
  LoopShare(DeviceLoop& loop, unsigned owner) : loop_(loop), owner_(owner) {}

  void post(std::function<void()> work) override { loop_.post_for(owner_, std::move(work)); }
  Result<std::unique_ptr<devices::FdWatch>> watch(int fd, devices::FdEvent event,
                                                  std::function<void()> ready) override {
    return loop_.watch_for(owner_, fd, event, std::move(ready));
  }

  [[nodiscard]] unsigned owner() const { return owner_; }
  [[nodiscard]] const DeviceLoop& loop() const { return loop_; }
  /// Whether its work is what the thread does just now. Any thread.
  [[nodiscard]] bool has_the_thread() const { return loop_.works_for() == owner_; }

 private:
  DeviceLoop& loop_;
  const unsigned owner_;
};

}  // namespace vmmd::loop
