#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

namespace vmmd {

/// Of C0, or DEL.
[[nodiscard]] constexpr bool is_control_character(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7F;
}
[[nodiscard]] constexpr bool has_control_characters(std::string_view text) {
  return std::any_of(text.begin(), text.end(), is_control_character);
}

enum class Lines : std::uint8_t { One, Many };

/// Text from elsewhere as a terminal may be shown it: each control character, of C0, C1 (which some terminals
/// take for the start of a sequence as well) and DEL, is a '?'. With Lines::Many newlines and tabs stay.
[[nodiscard]] std::string printable(std::string_view text, Lines lines = Lines::One);

}  // namespace vmmd
