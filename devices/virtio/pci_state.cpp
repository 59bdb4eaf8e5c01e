#include <algorithm>
#include <bit>

#include "devices/virtio/pci_transport.h"
#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {

constexpr std::uint32_t kStatusBits = kVirtioAcknowledge | kVirtioDriver | kVirtioDriverOk |
                                      kVirtioFeaturesOk | kVirtioNeedsReset | kVirtioFailed;

Status check_queue(const state::VirtioPci::Queue& queue, std::uint16_t largest, unsigned vectors,
                   bool features_ok) {
  if (!std::has_single_bit(queue.size()) || queue.size() > largest) {
    return fail(ErrorCode::BadRequest, "size {} is not a power of two up to {}", queue.size(), largest);
  }
  if (queue.next() > 0xffff) return fail(ErrorCode::BadRequest, "impossible index {}", queue.next());
  if (queue.returned_size() > static_cast<int>(queue.size()) ||
      std::any_of(queue.returned().begin(), queue.returned().end(),
                  [&](std::uint32_t head) { return head >= queue.size(); })) {
    return fail(ErrorCode::BadRequest, "impossible chains to take again");
  }
  if (queue.vector() >= vectors && queue.vector() != kVirtioNoVector) {
    return fail(ErrorCode::BadRequest, "vector {}, but there are {}", queue.vector(), vectors);
  }
  if (queue.enabled() && !features_ok) {
    return fail(ErrorCode::BadRequest, "enabled before the features were agreed on");
  }
  return {};
}

Status check_registers(const state::VirtioPci& message, const VirtioRegisters& registers) {
  const auto& limits = registers.limits();
  const std::uint32_t status = message.status();
  const bool features_ok = (status & kVirtioFeaturesOk) != 0;
  const bool driver_ok = (status & kVirtioDriverOk) != 0;
  const bool needs_reset = (status & kVirtioNeedsReset) != 0;
  if ((status & ~kStatusBits) != 0 || (driver_ok && !features_ok) || (needs_reset && !driver_ok)) {
    return fail(ErrorCode::BadRequest, "impossible device status {:#x}", status);
  }
  if (features_ok && !registers.acceptable(message.driver_features())) {
    return fail(ErrorCode::BadRequest,
                "the driver uses features {:#x}, but {:#x} are offered here: configure the device as it was",
                message.driver_features(), limits.features);
  }
  if (message.config_vector() >= limits.vectors && message.config_vector() != kVirtioNoVector) {
    return fail(ErrorCode::BadRequest, "configuration vector {}, but there are {}", message.config_vector(),
                limits.vectors);
  }
  if (message.config_generation() > 0xff || message.queue_select() > 0xffff ||
      (message.isr() & ~std::uint32_t{kVirtioIsrQueue | kVirtioIsrConfig}) != 0) {
    return fail(ErrorCode::BadRequest, "impossible generation {:#x}, queue selector {:#x} or ISR {:#x}",
                message.config_generation(), message.queue_select(), message.isr());
  }
  if (message.queues_size() != static_cast<int>(limits.queue_sizes.size())) {
    return fail(ErrorCode::BadRequest, "{} queues in the snapshot, {} here", message.queues_size(),
                limits.queue_sizes.size());
  }
  for (int i = 0; i < message.queues_size(); ++i) {
    const std::uint16_t largest = limits.queue_sizes[static_cast<unsigned>(i)];
    auto checked = check_queue(message.queues(i), largest, limits.vectors, features_ok);
    if (!checked) return wrap(std::move(checked).error(), "queue {}", i);
  }
  return {};
}

VirtioRegisters::State state_of(const state::VirtioPci& message) {
  VirtioRegisters::State next;
  auto& [status, device_select, driver_select, features, config_vector, generation, queue_select, isr,
         resetting, queues] = next;
  status = static_cast<std::uint8_t>(message.status());
  device_select = message.device_feature_select();
  driver_select = message.driver_feature_select();
  features = message.driver_features();
  config_vector = static_cast<std::uint16_t>(message.config_vector());
  generation = static_cast<std::uint8_t>(message.config_generation());
  queue_select = static_cast<std::uint16_t>(message.queue_select());
  isr = static_cast<std::uint8_t>(message.isr());
  resetting = false;
  for (const auto& from : message.queues()) {
    const auto next_index = static_cast<std::uint16_t>(from.next());
    queues.push_back({{.size = static_cast<std::uint16_t>(from.size()),
                       .enabled = from.enabled(),
                       .descriptors = GuestAddress(from.descriptors()),
                       .avail = GuestAddress(from.avail()),
                       .used = GuestAddress(from.used()),
                       .next_avail = next_index,
                       .next_used = static_cast<std::uint16_t>(next_index - from.returned_size()),
                       .returned = {from.returned().begin(), from.returned().end()}},
                      static_cast<std::uint16_t>(from.vector()),
                      false});
  }
  return next;
}

}  // namespace

Result<UnitState> VirtioPci::save() const {
  const Lock lock(mutex_);
  const auto& [status, device_select, driver_select, features, config_vector, generation, queue_select, isr,
               resetting, queues] = registers_.state();
  if (phase_ != Phase::Stopped || !paused_ || resetting) {
    return fail(ErrorCode::NotSupported, "unit {}: the device is still at work; pause it first", unit_name_);
  }
  state::VirtioPci message;
  message.set_config_space(space_.save());
  msix_.save(*message.mutable_msix());
  message.set_status(status);
  message.set_device_feature_select(device_select);
  message.set_driver_feature_select(driver_select);
  message.set_driver_features(features);
  message.set_config_vector(config_vector);
  message.set_config_generation(generation);
  message.set_queue_select(queue_select);
  message.set_isr(isr);
  for (const auto& [ring, vector, queue_resetting] : queues) {
    const auto open = static_cast<std::uint16_t>(ring.next_avail - ring.next_used);
    if (queue_resetting || open != ring.returned.size()) {
      return fail(ErrorCode::NotSupported, "unit {}: requests are still in flight", unit_name_);
    }
    auto& to = *message.add_queues();
    to.set_size(ring.size);
    to.set_enabled(ring.enabled);
    to.set_descriptors(ring.descriptors.value);
    to.set_avail(ring.avail.value);
    to.set_used(ring.used.value);
    to.set_next(ring.next_avail);
    to.set_vector(vector);
    to.mutable_returned()->Add(ring.returned.begin(), ring.returned.end());
  }
  return pack_state(message);
}

Status VirtioPci::restore(const UnitState& state) {
  state::VirtioPci message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  const Lock lock(mutex_);
  if (phase_ != Phase::Stopped || !paused_) {
    return fail(ErrorCode::WrongState, "unit {}: a running device cannot be restored", unit_name_);
  }
  VMMD_TRY(space_.check(message.config_space(), unit_name(), pci_name()));
  VMMD_TRY(msix_.check(message.msix(), unit_name()));
  if (auto checked = check_registers(message, registers_); !checked) {
    return wrap(std::move(checked).error(), "unit {}", unit_name_);
  }
  auto before = std::exchange(registers_.state(), state_of(message));
  if (registers_.live() && !rings_valid()) {
    registers_.state() = std::move(before);
    return fail(ErrorCode::BadRequest, "unit {}: an enabled queue is not in guest RAM", unit_name_);
  }
  space_.restore(message.config_space());
  msix_.restore(message.msix());
  reset_device_ = false;
  config_changed();
  intx_.set_pending(registers_.state().isr != 0);
  return {};
}

void VirtioPci::reset() {
  const Lock lock(mutex_);
  space_ = power_on_;
  registers_.reset();
  registers_.state().config_generation = 0;
  reset_device_ = false;
  msix_.reset();
  intx_.set_pending(false);
  config_changed();
}

}  // namespace vmmd::devices
