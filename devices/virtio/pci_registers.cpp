#include "devices/virtio/pci_registers.h"

#include <array>
#include <bit>
#include <cstddef>
#include <utility>

#include "devices/virtio/device.h"

namespace vmmd::devices {

namespace {

// struct virtio_pci_common_cfg
constexpr std::uint64_t kDeviceFeatureSelect = 0;
constexpr std::uint64_t kDeviceFeature = 4;
constexpr std::uint64_t kDriverFeatureSelect = 8;
constexpr std::uint64_t kDriverFeature = 12;
constexpr std::uint64_t kConfigVector = 16;
constexpr std::uint64_t kNumQueues = 18;
constexpr std::uint64_t kStatus = 20;
constexpr std::uint64_t kGeneration = 21;
constexpr std::uint64_t kQueueSelect = 22;
constexpr std::uint64_t kQueueSize = 24;
constexpr std::uint64_t kQueueVector = 26;
constexpr std::uint64_t kQueueEnable = 28;
constexpr std::uint64_t kQueueNotifyOffset = 30;
constexpr std::uint64_t kQueueDescriptors = 32;
constexpr std::uint64_t kQueueAvail = 40;
constexpr std::uint64_t kQueueUsed = 48;
constexpr std::uint64_t kQueueNotifyData = 56;
constexpr std::uint64_t kQueueReset = 58;

constexpr std::uint8_t kDriverBits =
    kVirtioAcknowledge | kVirtioDriver | kVirtioDriverOk | kVirtioFeaturesOk | kVirtioFailed;

std::uint32_t half_of(std::uint64_t value, std::uint32_t select) {
  return select < 2 ? static_cast<std::uint32_t>(value >> (32 * select)) : 0;
}
void set_half(std::uint64_t& value, std::uint32_t select, std::uint32_t half) {
  if (select >= 2) return;
  value &= ~(0xffff'ffffULL << (32 * select));
  value |= std::uint64_t{half} << (32 * select);
}

}  // namespace

VirtioRegisters::VirtioRegisters(Limits limits) : limits_(std::move(limits)) {
  reset();
}

void VirtioRegisters::reset() {
  const std::uint8_t generation = state_.config_generation;
  state_ = {};
  state_.config_generation = generation;
  state_.queues.resize(limits_.queue_sizes.size());
  for (unsigned i = 0; i < state_.queues.size(); ++i) reset_queue(i);
}

void VirtioRegisters::reset_queue(unsigned index) {
  state_.queues.at(index) = {};
  state_.queues.at(index).ring.size = limits_.queue_sizes.at(index);
}

bool VirtioRegisters::live() const {
  return (state_.status & (kVirtioDriverOk | kVirtioNeedsReset)) == kVirtioDriverOk && !state_.resetting;
}

bool VirtioRegisters::acceptable(std::uint64_t features) const {
  return (features & ~limits_.features) == 0 && (features & kVirtioVersion1) != 0;
}

std::uint16_t VirtioRegisters::checked_vector(std::uint64_t value) const {
  return value < limits_.vectors ? static_cast<std::uint16_t>(value) : kVirtioNoVector;
}

std::uint64_t VirtioRegisters::read(std::uint64_t offset, unsigned width) const {
  std::array<std::byte, kSize> bytes{};
  const auto put = [&bytes](std::uint64_t at, unsigned size, std::uint64_t value) {
    for (unsigned i = 0; i < size; ++i) bytes.at(at + i) = static_cast<std::byte>(value >> (8 * i));
  };
  put(kDeviceFeatureSelect, 4, state_.device_feature_select);
  put(kDeviceFeature, 4, half_of(limits_.features, state_.device_feature_select));
  put(kDriverFeatureSelect, 4, state_.driver_feature_select);
  put(kDriverFeature, 4, half_of(state_.driver_features, state_.driver_feature_select));
  put(kConfigVector, 2, state_.config_vector);
  put(kNumQueues, 2, state_.queues.size());
  put(kStatus, 1, state_.status);
  put(kGeneration, 1, state_.config_generation);
  put(kQueueSelect, 2, state_.queue_select);
  if (state_.queue_select < state_.queues.size()) {
    const auto& [ring, vector, resetting] = state_.queues[state_.queue_select];
    put(kQueueSize, 2, ring.size);
    put(kQueueVector, 2, vector);
    put(kQueueEnable, 2, ring.enabled ? 1 : 0);
    put(kQueueNotifyOffset, 2, state_.queue_select);
    put(kQueueDescriptors, 8, ring.descriptors.value);
    put(kQueueAvail, 8, ring.avail.value);
    put(kQueueUsed, 8, ring.used.value);
    put(kQueueNotifyData, 2, state_.queue_select);
    put(kQueueReset, 2, resetting ? 1 : 0);
  }
  return read_config_bytes(bytes, offset, width);
}

VirtioRegisters::Effect VirtioRegisters::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (state_.resetting) return Effect::None;
  const auto is = [=](std::uint64_t field, unsigned size) { return offset == field && width == size; };
  const auto value32 = static_cast<std::uint32_t>(value);
  if (is(kDeviceFeatureSelect, 4)) {
    state_.device_feature_select = value32;
  } else if (is(kDriverFeatureSelect, 4)) {
    state_.driver_feature_select = value32;
  } else if (is(kDriverFeature, 4)) {
    if ((state_.status & kVirtioFeaturesOk) != 0) return Effect::None;
    set_half(state_.driver_features, state_.driver_feature_select, value32);
  } else if (is(kConfigVector, 2)) {
    state_.config_vector = checked_vector(value);
  } else if (is(kStatus, 1)) {
    return write_status(static_cast<std::uint8_t>(value));
  } else if (is(kQueueSelect, 2)) {
    state_.queue_select = static_cast<std::uint16_t>(value);
  } else if (offset >= kQueueSize && state_.queue_select < state_.queues.size()) {
    return write_queue(offset, width, value);
  }
  return Effect::None;
}

VirtioRegisters::Effect VirtioRegisters::write_status(std::uint8_t value) {
  if (value == 0) {
    state_.resetting = true;
    return Effect::Reset;
  }
  // Bits are only ever added: a driver takes none back but by a reset (2.1.1).
  std::uint8_t added = value & kDriverBits & static_cast<std::uint8_t>(~state_.status);
  if (!acceptable(state_.driver_features)) added &= static_cast<std::uint8_t>(~kVirtioFeaturesOk);
  const bool features_ok = ((state_.status | added) & kVirtioFeaturesOk) != 0;
  if (!features_ok) added &= static_cast<std::uint8_t>(~kVirtioDriverOk);
  state_.status |= added;
  return (added & kVirtioDriverOk) != 0 ? Effect::DriverOk : Effect::None;
}

VirtioRegisters::Effect VirtioRegisters::write_queue(std::uint64_t offset, unsigned width,
                                                     std::uint64_t value) {
  QueueState& queue = state_.queues[state_.queue_select];
  Queue::State& ring = queue.ring;
  const auto is = [=](std::uint64_t field, unsigned size) { return offset == field && width == size; };
  if (is(kQueueVector, 2)) {
    queue.vector = checked_vector(value);
    return Effect::None;
  }
  if (is(kQueueReset, 2)) {
    if (value != 1 || !ring.enabled || queue.resetting || !has_feature(kVirtioRingReset)) return Effect::None;
    queue.resetting = true;
    return Effect::QueueReset;
  }
  if (ring.enabled || queue.resetting) return Effect::None;  // its layout is fixed (4.1.4.3.2)
  if (is(kQueueSize, 2)) {
    if (std::has_single_bit(value) && value <= limits_.queue_sizes[state_.queue_select]) {
      ring.size = static_cast<std::uint16_t>(value);
    }
    return Effect::None;
  }
  if (is(kQueueEnable, 2)) {
    if (value != 1 || (state_.status & kVirtioFeaturesOk) == 0) return Effect::None;
    ring.enabled = true;
    return Effect::QueueEnabled;
  }
  const auto set_address = [&](std::uint64_t field, std::uint64_t& address) {
    if (is(field, 8)) address = value;
    if (is(field, 4)) set_half(address, 0, static_cast<std::uint32_t>(value));
    if (is(field + 4, 4)) set_half(address, 1, static_cast<std::uint32_t>(value));
  };
  set_address(kQueueDescriptors, ring.descriptors.value);
  set_address(kQueueAvail, ring.avail.value);
  set_address(kQueueUsed, ring.used.value);
  return Effect::None;
}

}  // namespace vmmd::devices
