#pragma once

#include <cstdint>
#include <cstdlib>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "devices/virtio/device.h"
#include "tests/unit/support/fake_event_loop.h"
#include "tests/unit/support/virtio_guest.h"

namespace vmmd::testing {

/// Remembers what a device asked for. For the loop's thread.
class FakeTransport final : public devices::VirtioTransport {
 public:
  void interrupt_queue(unsigned index) override { ++queue_interrupts[index]; }
  void interrupt_config() override { ++config_interrupts; }
  void needs_reset(std::string_view reason) override { reasons.emplace_back(reason); }

  std::map<unsigned, unsigned> queue_interrupts;
  unsigned config_interrupts = 0;
  std::vector<std::string> reasons;  // of needs_reset()
};

/// A device with its queues, each with a driver, as a transport would run it. `loop` is the one that the
/// device was built with.
class RunningDevice {
 public:
  static constexpr std::uint64_t kAllFeatures = ~std::uint64_t{0};

  /// Not started. `driver_features` are negotiated as far as the device (and the ring) has them.
  RunningDevice(devices::VirtioDevice& device, FakeEventLoop& loop, FakeGuest& guest,
                std::uint64_t driver_features = kAllFeatures & ~devices::kVirtioEventIdx)
      : device_(device), loop_(loop), guest_(guest) {
    const std::uint64_t ring = devices::kVirtioVersion1 | devices::kVirtioIndirectDesc |
                               devices::kVirtioEventIdx | devices::kVirtioRingReset;
    features_ = (device.features() | ring) & driver_features;
    const auto sizes = device.queue_sizes();
    queues_ = std::vector<devices::Queue>(sizes.size());
    for (const std::uint16_t size : sizes) drivers_.emplace_back(guest, size);
  }
  ~RunningDevice() {
    if (running_) stop();
  }
  RunningDevice(const RunningDevice&) = delete;
  RunningDevice& operator=(const RunningDevice&) = delete;

  /// DRIVER_OK: starts all queues (from where they were, after a stop()) but those in `off`.
  void start(std::initializer_list<unsigned> off = {}) {
    for (unsigned i = 0; i < queues_.size(); ++i) {
      const auto& from = queues_[i].state().size != 0 ? queues_[i].state() : drivers_[i].layout();
      const bool left_off = std::find(off.begin(), off.end(), i) != off.end();
      if (!left_off && !start_queue(i, from)) std::abort();
    }
    device_.start({&guest_.memory(), &transport, queues_, features_});
    running_ = true;
    loop_.run_ready();
  }
  /// Pause, reset or removal; runs the loop until the device has stopped.
  void stop() {
    bool stopped = false;
    device_.stop([&stopped] { stopped = true; });
    if (!loop_.run_until([&stopped] { return stopped; })) std::abort();
    running_ = false;
    for (devices::Queue& queue : queues_) queue.stop();
  }
  /// The driver notifies; then the loop runs until nothing is left to do.
  void notify(unsigned index) {
    device_.notify(index);
    loop_.run_ready();
  }

  [[nodiscard]] FakeDriver& driver(unsigned index) { return drivers_.at(index); }
  [[nodiscard]] devices::Queue& queue(unsigned index) { return queues_.at(index); }
  [[nodiscard]] std::uint64_t features() const { return features_; }

  FakeTransport transport;

 private:
  [[nodiscard]] bool start_queue(unsigned index, const devices::Queue::State& from) {
    const devices::Queue::State state = from;
    return queues_[index]
        .start(guest_.memory(), state, (features_ & devices::kVirtioEventIdx) != 0,
               (features_ & devices::kVirtioIndirectDesc) != 0)
        .has_value();
  }

  devices::VirtioDevice& device_;
  FakeEventLoop& loop_;
  FakeGuest& guest_;
  std::uint64_t features_ = 0;
  std::vector<devices::Queue> queues_;
  std::deque<FakeDriver> drivers_;
  bool running_ = false;
};

}  // namespace vmmd::testing
