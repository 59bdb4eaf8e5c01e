#pragma once

#include <poll.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "devices/event_loop.h"

namespace vmmd::testing {

/// An event loop that the test runs by hand. post() is thread-safe; all else is for the test's thread. The
/// loop outlives its watches.
class FakeEventLoop final : public devices::EventLoop {
 public:
  void post(std::function<void()> work) override {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(work));
  }
  Result<std::unique_ptr<devices::FdWatch>> watch(int fd, devices::FdEvent event,
                                                  std::function<void()> ready) override {
    return std::make_unique<Watch>(*this, fd, event, std::move(ready));
  }

  /// Runs what is posted, then what is ready, once each; whether there was anything.
  bool run_once() { return run(0); }
  /// Until nothing is left to do. A backend that works by itself (io_uring, a socket's peer) may have more
  /// later: run_until().
  void run_ready() {
    while (run(0)) {
    }
  }
  /// Until `done()`, waiting for descriptors for up to ten seconds; whether it came true.
  template <class Done>
  bool run_until(Done done) {
    while (!done()) {
      if (!run(kPatienceMs)) return done();
    }
    return true;
  }
  [[nodiscard]] std::size_t watches() const { return watches_.size(); }

 private:
  static constexpr int kPatienceMs = 10'000;

  struct Watch final : devices::FdWatch {
    Watch(FakeEventLoop& l, int f, devices::FdEvent e, std::function<void()> r)
        : loop(l),
          fd(f),
          events(e == devices::FdEvent::Readable ? POLLIN : POLLOUT),
          ready(std::make_shared<std::function<void()>>(std::move(r))) {
      loop.watches_.push_back(this);
    }
    ~Watch() override { std::erase(loop.watches_, this); }
    FakeEventLoop& loop;
    int fd;
    short events;
    std::shared_ptr<std::function<void()>> ready;  // a callback may destroy its own watch
  };

  bool run(int patience_ms) {
    std::deque<std::function<void()>> work;
    {
      const std::lock_guard lock(mutex_);
      work.swap(posted_);
    }
    for (const auto& each : work) each();
    const bool worked = !work.empty();
    std::vector<pollfd> fds;
    std::vector<Watch*> watches = watches_;
    for (const Watch* watch : watches) fds.push_back({watch->fd, watch->events, 0});
    if (fds.empty() || ::poll(fds.data(), fds.size(), worked ? 0 : patience_ms) <= 0) return worked;
    for (std::size_t i = 0; i < fds.size(); ++i) {
      const bool there = std::find(watches_.begin(), watches_.end(), watches[i]) != watches_.end();
      if (fds[i].revents == 0 || !there) continue;
      const auto ready = watches[i]->ready;
      (*ready)();
    }
    return true;
  }

  std::mutex mutex_;
  std::deque<std::function<void()>> posted_;
  std::vector<Watch*> watches_;
};

}  // namespace vmmd::testing
