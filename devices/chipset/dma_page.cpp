#include "devices/chipset/dma_page.h"

#include <algorithm>

#include "proto/state.pb.h"

namespace vmmd::devices {

std::uint64_t DmaPage::read(std::uint64_t offset, unsigned width) {
  if (offset >= kSize || width != 1) return all_ones(width);
  const std::lock_guard lock(mutex_);
  return state_.pages.at(offset);
}

void DmaPage::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (offset >= kSize || width != 1) return;
  const std::lock_guard lock(mutex_);
  state_.pages.at(offset) = static_cast<std::uint8_t>(value);
}

Result<UnitState> DmaPage::save() const {
  const std::lock_guard lock(mutex_);
  const auto& [pages] = state_;
  state::DmaPage message;
  message.set_pages(pages.data(), pages.size());
  return pack_state(message);
}

Status DmaPage::restore(const UnitState& state) {
  state::DmaPage message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  if (message.pages().size() != kSize) {
    return fail(ErrorCode::BadRequest, "unit {}: {} page registers instead of {}", unit_name(),
                message.pages().size(), kSize);
  }
  const std::lock_guard lock(mutex_);
  std::copy(message.pages().begin(), message.pages().end(), state_.pages.begin());
  return {};
}

void DmaPage::reset() {
  const std::lock_guard lock(mutex_);
  state_ = {};
}

}  // namespace vmmd::devices
