#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "devices/device_events.h"
#include "devices/memory_reclaim.h"
#include "devices/virtio/simple_device.h"

namespace vmmd::devices {

/// virtio-balloon (virtio 1.2, 5.5): the host asks for a number of pages, the driver gives them (inflate) and
/// takes them back (deflate); it may report pages that are free just now; it tells about its memory.
///
/// Pages leave the host's memory when they are given or reported; nothing is done when they are taken back,
/// because the guest's first touch brings a new page. A driver that gives pages which it still uses harms
/// itself only. Where RAM consists of huge pages, the host takes one back when all of it was given in a row,
/// if the driver tells before it takes pages back (MUST_TELL_HOST, which is always offered: a restored VM may
/// have huge pages where the driver's had none).
///
/// What the host does for one chain may take it long, so the rest of a chain comes in later turns of the
/// loop. One that is in work when the device stops is begun anew.
///
/// Statistics come on demand: reading counters() asks the driver for new ones and answers those it sent last.
/// Not emulated: FREE_PAGE_HINT, PAGE_POISON.
class VirtioBalloon final : public SimpleDevice {
 public:
  static constexpr std::uint16_t kQueueSize = 128;
  static constexpr std::uint64_t kPageSize = 4096;     // bytes, whatever the guest's pages are
  static constexpr std::uint64_t kMaxPages = 1 << 16;  // of one chain; Linux sends 256
  // Of kTurn: the host has little to do for a page, more for a call.
  static constexpr std::uint64_t kCostOfPage = 64;
  static constexpr std::uint64_t kCostOfCall = 4096;
  static constexpr std::uint64_t kMostOfCall = 64
                                               << 20;  // bytes, or one piece of the reclaim's if that is more
  static constexpr unsigned kInflate = 0;
  static constexpr unsigned kDeflate = 1;
  static constexpr unsigned kStats = 2;      // if negotiated
  static constexpr unsigned kReporting = 3;  // 2 without statistics: queues of absent features have no number
  static constexpr std::uint64_t kMustTellHost = 1U << 0;
  static constexpr std::uint64_t kStatsVq = 1U << 1;
  static constexpr std::uint64_t kDeflateOnOom = 1U << 2;
  static constexpr std::uint64_t kPageReporting = 1U << 5;

  struct Config {
    std::uint64_t ram_size = 0;  // bytes
    std::uint64_t size = 0;      // bytes that the host asks for at first
    bool deflate_on_oom = false;
    bool free_page_reporting = false;
  };
  /// `reclaim` and `events` outlive the device.
  VirtioBalloon(const Config& config, EventLoop& loop, MemoryReclaim& reclaim, DeviceEvents& events);

  /// What the host asks for from now on: whole pages, all of RAM at most. The driver follows in its own time.
  /// Any thread.
  void resize(std::uint64_t bytes);
  /// What the driver says it has given. Any thread; bytes.
  [[nodiscard]] std::uint64_t actual_bytes() const;

  [[nodiscard]] VirtioType type() const override { return VirtioType::Balloon; }
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::vector<std::uint16_t> queue_sizes() const override;
  [[nodiscard]] std::uint64_t read_config(std::uint64_t offset, unsigned width) override;
  void write_config(std::uint64_t offset, unsigned width, std::uint64_t value) override;

  [[nodiscard]] std::string_view unit_name() const override { return "balloon"; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override;
  [[nodiscard]] std::map<std::string, std::int64_t> counters() const override;

 private:
  struct State {
    std::atomic<std::uint32_t> target_pages = 0;
    std::atomic<std::uint32_t> actual_pages = 0;
    std::atomic<bool> announce = false;  // the driver is to be told of target_pages
  };
  // Posted work finds the device by this, or that it is gone: it is destroyed on its loop.
  struct Anchor {
    VirtioBalloon& device;
    EventLoop& loop;
  };
  // The huge page that is being given piece by piece.
  struct Partial {
    std::uint64_t start = 0;  // guest physical
    std::uint64_t count = 0;  // pages given; 0: none
    std::vector<bool> given;
  };
  // The chain that is in work on a queue, which popped it before and gave it back.
  struct Progress {
    std::uint64_t pages = 0;  // of those sent, that were looked at
    std::size_t segment = 0;  // of those reported, the one in work
    std::uint64_t bytes = 0;  // of that
  };
  static constexpr std::size_t kBatchPages = 256;  // as many as Linux sends
  static constexpr std::size_t kQueues = 4;
  static constexpr std::size_t kStatNames = 16;

  std::optional<std::uint32_t> handle(unsigned index, const Chain& chain) override;
  void on_start() override;
  void on_stop_queue(unsigned index) override { progress_.at(index) = {}; }
  void announce();
  template <class Each>
  [[nodiscard]] bool for_each_batch(const Chain& chain, Progress& progress, Each each);
  [[nodiscard]] bool take_reports(const Chain& chain, Progress& progress);
  void inflate(std::span<std::uint32_t> pages);
  void deflate(std::span<const std::uint32_t> pages);
  void give(std::uint64_t start, std::uint64_t length);
  void give_page(std::uint64_t address);
  void discard(std::uint64_t start, std::uint64_t length);
  [[nodiscard]] bool is_stats(unsigned index) const;
  void read_stats(const Chain& chain);
  void ask_for_stats();

  const Config config_;
  const std::uint32_t ram_pages_;
  MemoryReclaim& reclaim_;
  DeviceEvents& events_;
  const std::shared_ptr<Anchor> anchor_;
  State state_;
  std::array<std::uint32_t, kBatchPages> batch_{};
  std::array<Progress, kQueues> progress_{};
  Partial partial_;
  bool return_stats_ = false;    // the next buffer of statistics goes back, to come again with new ones
  bool discard_failed_ = false;  // the events know
  mutable std::mutex stats_mutex_;
  std::array<std::optional<std::int64_t>, kStatNames> stats_;  // as last sent
  mutable std::atomic<bool> asking_ = false;
  std::atomic<std::int64_t> inflated_pages_ = 0;
  std::atomic<std::int64_t> deflated_pages_ = 0;
  std::atomic<std::int64_t> ignored_pages_ = 0;  // not RAM, or beyond kMaxPages
  std::atomic<std::int64_t> reported_bytes_ = 0;
  std::atomic<std::int64_t> discarded_bytes_ = 0;
  std::atomic<std::int64_t> discard_failures_ = 0;
  std::atomic<std::int64_t> stats_updates_ = 0;
};

}  // namespace vmmd::devices
