#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "devices/event_loop.h"
#include "devices/guest_memory.h"
#include "devices/state_unit.h"
#include "devices/virtio/queue.h"

namespace vmmd::devices {

/// Device types (virtio 1.2, 5).
enum class VirtioType : std::uint16_t {
  Net = 1,
  Block = 2,
  Console = 3,
  Rng = 4,
  Balloon = 5,
  Vsock = 19,
  Pmem = 27,
  Watchdog = 35,
};

/// What a device model asks of its transport. Thread-safe; none of these calls back into the device.
class VirtioTransport {
 public:
  virtual ~VirtioTransport() = default;
  /// An interrupt for used buffers of queue `index`. Only when Queue::flush() asked for it.
  virtual void interrupt_queue(unsigned index) = 0;
  /// The device's configuration changed: generation and interrupt.
  virtual void interrupt_config() = 0;
  /// The driver broke the rules beyond repair: NEEDS_RESET and a configuration interrupt. Counted, never
  /// logged for each.
  virtual void needs_reset(std::string_view reason) = 0;
};

/// What a running device works with.
struct VirtioRun {
  const GuestMemory* memory = nullptr;
  VirtioTransport* transport = nullptr;
  std::span<Queue> queues;     // all that the device has; those the driver left off are not running()
  std::uint64_t features = 0;  // negotiated
};

/// A virtio device without its transport: features, configuration and queues (virtio 1.2, 2 and 5). Also the
/// unit of its own volatile state ("disk:<id>"); queues and negotiated features are the transport's.
///
/// start(), stop() and notify() run on the device's loop, so queues and backend need no locks. The
/// configuration is read and written on vCPU threads, and counters() on any: the device locks or uses atomics
/// for those. save(), restore() and reset() run while it is stopped; reset() also on the loop when the driver
/// resets the device, so it must not give a guest back what its host limits (tokens of a rate limiter).
class VirtioDevice : public StateUnit {
 public:
  [[nodiscard]] virtual VirtioType type() const = 0;
  /// The loop this device works on.
  [[nodiscard]] virtual EventLoop& loop() = 0;
  /// What is offered, without the transport's own bits (VERSION_1, INDIRECT_DESC, EVENT_IDX, RING_RESET).
  [[nodiscard]] virtual std::uint64_t features() const = 0;
  /// The largest size of each queue, entries. Constant; at least one queue, at most 64.
  [[nodiscard]] virtual std::vector<std::uint16_t> queue_sizes() const = 0;

  /// The device configuration, little endian; beyond it reads are zero and writes dropped. `width` 1, 2, 4
  /// or 8.
  [[nodiscard]] virtual std::uint64_t read_config(std::uint64_t offset, unsigned width) = 0;
  virtual void write_config(std::uint64_t offset, unsigned width, std::uint64_t value) {
    static_cast<void>(offset), static_cast<void>(width), static_cast<void>(value);
  }

  /// The driver is ready (DRIVER_OK), or the VM goes on. Looks at every queue once, since notifications may
  /// have been missed.
  virtual void start(const VirtioRun& run) = 0;
  /// Takes no more chains; when every chain in flight has been pushed and flushed, or given back, calls
  /// `stopped` (at once, or later on the loop), after which queues and transport are not touched until
  /// start(). For pause, reset and removal alike: a reset shows the guest status 0 only then.
  virtual void stop(std::function<void()> stopped) = 0;
  /// The driver notified queue `index`, which is running.
  virtual void notify(unsigned index) = 0;
  /// The driver stopped (queue_reset) or restarted one queue while the device runs. Same rules as stop() and
  /// start().
  virtual void stop_queue(unsigned index, std::function<void()> stopped) = 0;
  virtual void start_queue(unsigned index) = 0;
  /// The backend may have another size than before. On the loop, started or not.
  virtual void host_end_changed() {}
};

/// The little-endian bytes of a configuration structure, as read_config() wants them.
[[nodiscard]] std::uint64_t read_config_bytes(std::span<const std::byte> config, std::uint64_t offset,
                                              unsigned width);

// Feature bits of the transport (virtio 1.2, 6).
inline constexpr std::uint64_t kVirtioIndirectDesc = 1ULL << 28;
inline constexpr std::uint64_t kVirtioEventIdx = 1ULL << 29;
inline constexpr std::uint64_t kVirtioVersion1 = 1ULL << 32;
inline constexpr std::uint64_t kVirtioRingReset = 1ULL << 40;

}  // namespace vmmd::devices
