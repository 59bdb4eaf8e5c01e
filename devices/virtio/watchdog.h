#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "devices/chipset/power.h"
#include "devices/clock.h"
#include "devices/device_events.h"
#include "devices/virtio/simple_device.h"

namespace vmmd::devices {

/// Cloud Hypervisor's virtio watchdog (device type 35; no specification beyond the number, and no driver in
/// mainline Linux): the driver pings by a buffer of at least one writable byte in the only queue, the device
/// writes 1 into it and gives it back. The first ping starts the timer; a guest that does not ping again
/// within kTimeoutNs is reset.
///
/// Time counts only while the device runs: a pause, a snapshot and a clock that is put forward at restore use
/// none of it up. (Cloud Hypervisor looks every 15 s whether 20 s have passed, and starts over after each
/// pause.) A driver that resets the device stops the timer, and so does the reset of the machine.
class VirtioWatchdog final : public SimpleDevice {
 public:
  static constexpr std::uint16_t kQueueSize = 8;
  static constexpr std::uint64_t kTimeoutNs =
      20'000'000'000;  // Cloud Hypervisor's; its driver pings each 15 s

  /// All outlive the device.
  VirtioWatchdog(EventLoop& loop, Clock& clock, PowerSink& power, DeviceEvents& events);

  [[nodiscard]] VirtioType type() const override { return VirtioType::Watchdog; }
  [[nodiscard]] std::uint64_t features() const override { return 0; }
  [[nodiscard]] std::vector<std::uint16_t> queue_sizes() const override { return {kQueueSize}; }
  [[nodiscard]] std::uint64_t read_config(std::uint64_t, unsigned) override { return 0; }

  [[nodiscard]] std::string_view unit_name() const override { return "watchdog"; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override;
  [[nodiscard]] std::map<std::string, std::int64_t> counters() const override;

 private:
  struct State {
    std::uint64_t remaining_ns = 0;  // while stopped: until the guest is reset; 0: the timer is off
  };

  std::optional<std::uint32_t> handle(unsigned index, const Chain& chain) override;
  void on_start() override;
  void on_stop() override;
  void start_timer(std::uint64_t remaining_ns);
  void expired();

  Clock& clock_;
  PowerSink& power_;
  DeviceEvents& events_;
  mutable std::mutex mutex_;  // the two below
  State state_;
  std::uint64_t deadline_ns_ = 0;  // while running; 0: the timer is off
  std::atomic<std::int64_t> pings_ = 0;
  std::atomic<std::int64_t> timeouts_ = 0;
  std::unique_ptr<Timer> timer_;  // last: its destructor waits for expired()
};

}  // namespace vmmd::devices
