#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "devices/device_events.h"
#include "devices/virtio/entropy_source.h"
#include "devices/virtio/simple_device.h"

namespace vmmd::devices {

/// virtio-rng (virtio 1.2, 5.4): one queue of buffers to fill. Nothing to configure, nothing to save.
///
/// A request gets at most kMaxRequest bytes, whatever it has room for; the driver asks again. One whose
/// source has nothing now waits in its queue.
class VirtioRng final : public SimpleDevice {
 public:
  static constexpr std::uint16_t kQueueSize = 256;
  static constexpr std::uint32_t kMaxRequest = 64 << 10;  // bytes

  /// `source` and `events` outlive the device; `source` has no other user.
  VirtioRng(EventLoop& loop, EntropySource& source, DeviceEvents& events)
      : SimpleDevice(loop), source_(source), events_(events) {}

  [[nodiscard]] VirtioType type() const override { return VirtioType::Rng; }
  [[nodiscard]] std::uint64_t features() const override { return 0; }
  [[nodiscard]] std::vector<std::uint16_t> queue_sizes() const override { return {kQueueSize}; }
  [[nodiscard]] std::uint64_t read_config(std::uint64_t, unsigned) override { return 0; }

  [[nodiscard]] std::string_view unit_name() const override { return "rng"; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override {}
  [[nodiscard]] std::map<std::string, std::int64_t> counters() const override;

 private:
  std::optional<std::uint32_t> handle(unsigned index, const Chain& chain) override;
  void on_stop() override { wait_.reset(); }
  /// Leading bytes of `out`; says once if the source's file is given up.
  [[nodiscard]] std::uint32_t fill(std::span<std::byte> out);
  /// True if the source can say when it has more.
  [[nodiscard]] bool wait_for_source();

  EntropySource& source_;
  DeviceEvents& events_;
  std::unique_ptr<FdWatch> wait_;
  std::atomic<std::int64_t> requests_ = 0;
  std::atomic<std::int64_t> bytes_ = 0;
  std::atomic<std::int64_t> source_failures_ = 0;
};

}  // namespace vmmd::devices
