#pragma once

#include <compare>
#include <cstdint>
#include <optional>

namespace vmmd::devices {

/// A guest physical address. Not a number: arithmetic on it is checked, and it never mixes with host
/// pointers.
struct GuestAddress {
  std::uint64_t value = 0;

  constexpr GuestAddress() = default;
  constexpr explicit GuestAddress(std::uint64_t v) : value(v) {}
  constexpr auto operator<=>(const GuestAddress&) const = default;

  /// The address `offset` bytes further, or nothing where that wraps around.
  [[nodiscard]] constexpr std::optional<GuestAddress> checked_add(std::uint64_t offset) const {
    if (value + offset < value) return std::nullopt;
    return GuestAddress(value + offset);
  }
};

}  // namespace vmmd::devices
