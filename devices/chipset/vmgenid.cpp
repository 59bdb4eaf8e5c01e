#include "devices/chipset/vmgenid.h"

#include <algorithm>
#include <span>

#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {
constexpr std::uint64_t kAlignment = 8;
}

VmGenId::VmGenId(const GuestMemory& memory, GenericEventDevice& ged) : memory_(memory), ged_(ged) {}

Status VmGenId::check_place(GuestAddress address) const {
  if (address.value == 0 || address.value % kAlignment != 0 || !memory_.contains(address, Id{}.size())) {
    return fail(ErrorCode::BadRequest, "unit {}: {:#x} is not an 8-byte aligned place in guest RAM",
                unit_name(), address.value);
  }
  return {};
}

Status VmGenId::place(GuestAddress address, const Id& id) {
  const std::lock_guard lock(mutex_);
  VMMD_TRY(check_place(address));
  if (!memory_.write(address, std::as_bytes(std::span(id)))) {
    return fail(ErrorCode::Internal, "unit {}: cannot write guest RAM at {:#x}", unit_name(), address.value);
  }
  state_ = {.id = id, .address = address};
  return {};
}

Status VmGenId::set_id(const Id& id) {
  const std::lock_guard lock(mutex_);
  if (state_.address.value == 0) {
    return fail(ErrorCode::WrongState, "unit {}: the machine has no generation id to replace", unit_name());
  }
  if (!memory_.write(state_.address, std::as_bytes(std::span(id)))) {
    return fail(ErrorCode::Internal, "unit {}: cannot write guest RAM at {:#x}", unit_name(),
                state_.address.value);
  }
  state_.id = id;
  ged_.notify(GedEvent::VmGenerationId);
  return {};
}

VmGenId::Id VmGenId::id() const {
  const std::lock_guard lock(mutex_);
  return state_.id;
}

Result<UnitState> VmGenId::save() const {
  const std::lock_guard lock(mutex_);
  const auto& [id, address] = state_;
  state::VmGenId message;
  message.mutable_id()->assign(id.begin(), id.end());
  message.set_address(address.value);
  return pack_state(message);
}

Status VmGenId::restore(const UnitState& state) {
  state::VmGenId message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  if (message.id().size() != Id{}.size()) {
    return fail(ErrorCode::BadRequest, "unit {}: the id has {} bytes, not {}", unit_name(),
                message.id().size(), Id{}.size());
  }
  State next;
  auto& [id, address] = next;
  std::copy(message.id().begin(), message.id().end(), id.begin());
  address = GuestAddress(message.address());
  if (address.value != 0) VMMD_TRY(check_place(address));
  const std::lock_guard lock(mutex_);
  state_ = next;
  return {};
}

void VmGenId::reset() {
  const std::lock_guard lock(mutex_);
  state_ = {};
}

}  // namespace vmmd::devices
