#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "devices/memory_reclaim.h"

namespace vmmd::testing {

/// Remembers what it was asked to take back. For one thread.
class FakeReclaim final : public devices::MemoryReclaim {
 public:
  explicit FakeReclaim(std::uint64_t granularity) : granularity_(granularity) {}
  [[nodiscard]] std::uint64_t granularity() const override { return granularity_; }
  Result<std::uint64_t> discard(devices::GuestAddress address, std::uint64_t length) override {
    if (refuse) return fail(ErrorCode::Internal, "the host does not want it");
    discarded.emplace_back(address.value, length);
    return length;
  }
  [[nodiscard]] bool covers(std::uint64_t address) const {
    return std::any_of(discarded.begin(), discarded.end(), [address](const auto& range) {
      return address >= range.first && address - range.first < range.second;
    });
  }

  bool refuse = false;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> discarded;  // address, length

 private:
  std::uint64_t granularity_;
};

}  // namespace vmmd::testing
