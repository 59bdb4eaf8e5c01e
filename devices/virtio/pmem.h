#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "devices/device_events.h"
#include "devices/storage/disk.h"
#include "devices/virtio/device.h"

namespace vmmd::devices {

/// virtio-pmem (virtio 1.2, 5.19): tells the guest where host memory is mapped beyond its RAM, and has one
/// queue of requests to make what was written there durable. The mapping itself is the owner's; it is not
/// guest RAM, so no device reads or writes it, and no snapshot holds it.
///
/// Not offered: SHMEM_REGION. Saves where and how large the memory is, since a guest keeps it in its tables.
class VirtioPmem final : public VirtioDevice {
 public:
  static constexpr std::uint16_t kQueueSize = 64;

  struct Config {
    std::string id;
    std::uint64_t start = 0;  // guest physical address
    std::uint64_t size = 0;   // bytes
  };
  /// `disk` holds what is written, and is flushed on request; nullptr: writes are discarded, and a flush does
  /// nothing. It, `loop` and `events` outlive the device.
  VirtioPmem(Config config, Disk* disk, EventLoop& loop, DeviceEvents& events);
  ~VirtioPmem() override;

  [[nodiscard]] VirtioType type() const override { return VirtioType::Pmem; }
  [[nodiscard]] EventLoop& loop() override { return loop_; }
  [[nodiscard]] std::uint64_t features() const override { return 0; }
  [[nodiscard]] std::vector<std::uint16_t> queue_sizes() const override { return {kQueueSize}; }
  [[nodiscard]] std::uint64_t read_config(std::uint64_t offset, unsigned width) override;
  void start(const VirtioRun& run) override;
  void stop(std::function<void()> stopped) override;
  void notify(unsigned index) override;
  void stop_queue(unsigned index, std::function<void()> stopped) override;
  void start_queue(unsigned index) override;

  [[nodiscard]] std::string_view unit_name() const override { return unit_name_; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override {}
  [[nodiscard]] std::map<std::string, std::int64_t> counters() const override;

 private:
  struct Slot;

  void run_queue();
  void take(Slot& slot);
  void finish(Slot& slot, bool good);
  void publish();
  void look_again();
  void check_stopped();

  const Config config_;
  const std::string unit_name_;
  Disk* const disk_;
  EventLoop& loop_;
  DeviceEvents& events_;
  VirtioRun run_;
  std::vector<std::unique_ptr<Slot>> slots_;  // as many as the queue has entries
  std::vector<Slot*> free_;
  bool running_ = false;
  bool queue_stopped_ = false;
  bool posted_ = false;
  bool failing_ = false;  // said so; until a flush succeeds
  bool reported_broken_ = false;
  std::function<void()> stopped_;        // of stop(), while requests are in flight
  std::function<void()> stopped_queue_;  // of stop_queue()

  std::atomic<std::int64_t> flushes_ = 0;
  std::atomic<std::int64_t> errors_ = 0;
  std::atomic<std::int64_t> invalid_ = 0;
};

}  // namespace vmmd::devices
