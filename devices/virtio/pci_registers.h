#pragma once

#include <cstdint>
#include <vector>

#include "devices/virtio/queue.h"

namespace vmmd::devices {

// Device status (virtio 1.2, 2.1).
inline constexpr std::uint8_t kVirtioAcknowledge = 1;
inline constexpr std::uint8_t kVirtioDriver = 2;
inline constexpr std::uint8_t kVirtioDriverOk = 4;
inline constexpr std::uint8_t kVirtioFeaturesOk = 8;
inline constexpr std::uint8_t kVirtioNeedsReset = 64;
inline constexpr std::uint8_t kVirtioFailed = 128;

inline constexpr std::uint16_t kVirtioNoVector = 0xffff;

// ISR status (4.1.4.5).
inline constexpr std::uint8_t kVirtioIsrQueue = 1;
inline constexpr std::uint8_t kVirtioIsrConfig = 2;

/// The common configuration structure (virtio 1.2, 4.1.4.3): what the driver may write when, and what it
/// reads back. No threads, no device: a reset that must wait for requests is only marked as wanted here; the
/// transport finishes it with reset() or reset_queue(). Not locked.
class VirtioRegisters {
 public:
  static constexpr std::uint64_t kSize = 60;  // bytes

  struct Limits {
    std::uint64_t features = 0;              // offered
    std::vector<std::uint16_t> queue_sizes;  // the largest of each
    unsigned vectors = 0;
  };
  struct QueueState {
    Queue::State ring;
    std::uint16_t vector = kVirtioNoVector;
    bool resetting = false;  // the driver wrote queue_reset
  };
  /// All that is saved.
  struct State {
    std::uint8_t status = 0;
    std::uint32_t device_feature_select = 0;
    std::uint32_t driver_feature_select = 0;
    std::uint64_t driver_features = 0;
    std::uint16_t config_vector = kVirtioNoVector;
    std::uint8_t config_generation = 0;
    std::uint16_t queue_select = 0;
    std::uint8_t isr = 0;
    bool resetting = false;  // the driver wrote status 0
    std::vector<QueueState> queues;
  };
  /// What a write asks of the transport.
  enum class Effect { None, Reset, DriverOk, QueueEnabled, QueueReset };

  explicit VirtioRegisters(Limits limits);

  /// Naturally aligned; beyond the structure reads are zero and writes dropped.
  [[nodiscard]] std::uint64_t read(std::uint64_t offset, unsigned width) const;
  Effect write(std::uint64_t offset, unsigned width, std::uint64_t value);

  /// Power-on state, but for the generation, which never goes back.
  void reset();
  void reset_queue(unsigned index);

  /// DRIVER_OK, without NEEDS_RESET and no reset in progress.
  [[nodiscard]] bool live() const;
  [[nodiscard]] bool has_feature(std::uint64_t bit) const { return (state_.driver_features & bit) != 0; }
  /// Whether FEATURES_OK may be set: nothing accepted that was not offered, and no legacy driver.
  [[nodiscard]] bool acceptable(std::uint64_t features) const;

  [[nodiscard]] State& state() { return state_; }
  [[nodiscard]] const State& state() const { return state_; }
  [[nodiscard]] const Limits& limits() const { return limits_; }

 private:
  Effect write_status(std::uint8_t value);
  Effect write_queue(std::uint64_t offset, unsigned width, std::uint64_t value);
  [[nodiscard]] std::uint16_t checked_vector(std::uint64_t value) const;

  const Limits limits_;
  State state_;
};

}  // namespace vmmd::devices
