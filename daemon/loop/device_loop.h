#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "devices/event_loop.h"

namespace boost::asio {
class io_context;  // NOLINT(readability-identifier-naming)
}

namespace vmmd::loop {

/// A device thread: one thread, one Asio io_context, for character backends, timers and virtio devices. A VM
/// has one that its devices share; a device that would hold the others up has one of its own.
///
/// What lives on the loop (backends, clocks) is destroyed before it. Work given to it before start() runs
/// once it has started. Idle, it sleeps in epoll without a time-out. All signals are blocked on its thread,
/// SIGPIPE among them.
class DeviceLoop final : public devices::EventLoop {
 public:
  DeviceLoop();
  ~DeviceLoop() override;  // stops
  DeviceLoop(const DeviceLoop&) = delete;
  DeviceLoop& operator=(const DeviceLoop&) = delete;

  struct Options {
    std::string name = "vmmd-devices";  // of the thread; 15 bytes, the rest is cut
    std::vector<unsigned> cpus;         // of the host, where it may run; empty: on all
  };
  /// Starts the thread; once. BadRequest if the host lets it run on none of the CPUs.
  Status start(const Options& options);
  Status start() { return start({}); }
  /// Ends the thread after the handler that runs now, and joins it. What is still queued never runs. May be
  /// called twice; not on the loop's own thread.
  void stop();

  /// Runs `work` on the loop's thread, in the order of the calls. Never blocks, never runs it inside post().
  void post(std::function<void()> work) override;

  Result<std::unique_ptr<devices::FdWatch>> watch(int fd, devices::FdEvent event,
                                                  std::function<void()> ready) override;

  /// The same for one of those who share the loop: see LoopShare.
  void post_for(unsigned owner, std::function<void()> work);
  Result<std::unique_ptr<devices::FdWatch>> watch_for(unsigned owner, int fd, devices::FdEvent event,
                                                      std::function<void()> ready);
  static constexpr unsigned kNobody = ~0U;
  /// Whose work the thread does just now; kNobody. Any thread.
  [[nodiscard]] unsigned works_for() const { return works_for_.load(std::memory_order_relaxed); }

  /// Runs `work` on the loop's thread and waits for it. On that thread, or while the loop does not run, just
  /// runs it. Hold no lock that loop work takes. Not concurrent with start() and stop().
  void run_sync(const std::function<void()>& work);

  [[nodiscard]] bool on_loop_thread() const;
  /// Between start() and stop().
  [[nodiscard]] bool running() const;

  /// For .cpp files that include <boost/asio.hpp>.
  [[nodiscard]] boost::asio::io_context& asio_context();

 private:
  std::atomic<unsigned> works_for_ = kNobody;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vmmd::loop
