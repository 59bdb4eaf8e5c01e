#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "devices/device_events.h"
#include "devices/rate_limiter.h"
#include "devices/storage/disk.h"
#include "devices/virtio/device.h"

namespace vmmd::devices {

/// A virtio disk (virtio 1.2, 5.2) over a Disk: read, write, flush, discard, write zeroes, serial number,
/// topology, several queues on one loop.
///
/// Not offered: geometry, CONFIG_WCE, SECURE_ERASE, LIFETIME. A driver that does not take FLUSH
/// gets writes that are durable when done (5.2.6.2). A request that breaks the rules is answered with IOERR
/// or UNSUPP; a chain without room for the answer is used without one.
///
/// A request is served in pieces, and only so many bytes are in flight: a guest cannot keep the loop, nor a
/// pause waiting for long, by what it asks for.
///
/// Its own state is the rate limiter's and the size that the guest knows; pausing waits for what is in
/// flight, but for what waits for room, which goes back to its queue.
class VirtioBlock final : public VirtioDevice {
 public:
  struct Config {
    std::string id;
    std::string serial;  // cut to 20 bytes, as Cloud Hypervisor does
    std::uint16_t queues = 1;
    std::uint16_t queue_size = 128;
    bool discard = true;  // offers discard, and write zeroes that give space back
    /// A write that the host has no room for is kept until the device is stopped and started again, rather
    /// than fail.
    bool wait_when_full = false;
  };
  /// `disk`, `loop` and `events` outlive the device. `size` in bytes, whole sectors of 512 count.
  VirtioBlock(Config config, Disk& disk, std::uint64_t size, EventLoop& loop,
              std::shared_ptr<RateLimiter> limiter, DeviceEvents& events);
  ~VirtioBlock() override;

  [[nodiscard]] VirtioType type() const override { return VirtioType::Block; }
  [[nodiscard]] EventLoop& loop() override { return loop_; }
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::vector<std::uint16_t> queue_sizes() const override;
  [[nodiscard]] std::uint64_t read_config(std::uint64_t offset, unsigned width) override;
  void start(const VirtioRun& run) override;
  void stop(std::function<void()> stopped) override;
  void notify(unsigned index) override;
  void stop_queue(unsigned index, std::function<void()> stopped) override;
  void start_queue(unsigned index) override;

  [[nodiscard]] std::string_view unit_name() const override { return unit_name_; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  /// The rate limits go on as they are: a guest must not fill its buckets by resetting its device.
  void reset() override {}
  [[nodiscard]] std::map<std::string, std::int64_t> counters() const override;

  /// Looks at the disk's size again and tells the guest if it has grown; start() does so, too.
  void host_end_changed() override;

 private:
  struct Slot;
  struct QueueState {
    std::vector<std::unique_ptr<Slot>> slots;
    std::vector<Slot*> free;
    std::vector<Slot*> held;  // there is no room for them
    [[nodiscard]] bool idle() const { return free.size() + held.size() == slots.size(); }
    bool stopping = false;
    bool throttled = false;
    bool starved = false;  // run_queue() ended because all slots are in use
    std::function<void()> stopped;
  };
  struct State {
    std::uint64_t sectors = 0;  // the size that the guest knows
  };

  void run_queue(unsigned index);
  /// Stays the queue's until it is taken from its list. Where has_room().
  [[nodiscard]] Slot& free_slot(unsigned index);
  /// Whether the queue may go on; false: the rate limit has it.
  bool take(unsigned index, Slot& slot);
  void begin_transfer(Slot& slot, bool write, std::uint64_t sector);
  void begin_ranges(Slot& slot, bool zeroes);
  void next_range(Slot& slot);
  void charge(Slot& slot, std::uint64_t cost);
  [[nodiscard]] bool has_room(unsigned index) const;
  void answer_serial(Slot& slot);
  void finish(Slot& slot, std::uint8_t status);
  void batch_done();
  void serve_part(Queue& queue);
  void end_turn();
  [[nodiscard]] bool waits_for_room(const DiskRequest& request) const;
  void hold(Slot& slot);
  void give_back(unsigned index);
  void flush_queues();
  void go_on_later();
  void check_stopped(unsigned index);

  const Config config_;
  const std::string unit_name_;
  Disk& disk_;
  EventLoop& loop_;
  DeviceEvents& events_;
  RateLimited limit_;
  VirtioRun run_;
  std::vector<QueueState> queues_;
  std::function<void()> stopped_;
  bool running_ = false;
  bool posted_ = false;          // go_on_later()
  std::uint64_t in_flight_ = 0;  // bytes, as charge() counts them
  std::uint64_t turn_ = 0;       // bytes, those taken on since the last batch_done()
  std::size_t first_queue_ = 0;  // whose turn it is
  bool told_full_ = false;
  unsigned quiet_ = 0;  // requests that have to succeed before a failure is told again

  mutable std::mutex mutex_;  // of state_ alone
  State state_;

  struct Counters {
    std::atomic<std::int64_t> reads = 0, writes = 0, flushes = 0, discards = 0, write_zeroes = 0;
    std::atomic<std::int64_t> read_bytes = 0, write_bytes = 0, errors = 0, held = 0, invalid = 0;
    std::atomic<std::int64_t> throttled = 0;
  };
  Counters counters_;
};

}  // namespace vmmd::devices
