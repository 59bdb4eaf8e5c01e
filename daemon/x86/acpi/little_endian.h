#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace vmmd::x86 {

/// Appends `value` as ACPI stores it, least significant byte first.
template <std::unsigned_integral T>
void put_le(std::vector<std::uint8_t>& out, T value) {
  std::uint64_t rest = value;
  for (std::size_t i = 0; i < sizeof(T); ++i, rest >>= 8) out.push_back(static_cast<std::uint8_t>(rest));
}

/// Overwrites bytes at `offset`, which must be there.
template <std::unsigned_integral T>
void set_le(std::vector<std::uint8_t>& out, std::size_t offset, T value) {
  std::uint64_t rest = value;
  for (std::size_t i = 0; i < sizeof(T); ++i, rest >>= 8) out[offset + i] = static_cast<std::uint8_t>(rest);
}

}  // namespace vmmd::x86
