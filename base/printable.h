#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace vmmd {

enum class Lines : std::uint8_t { One, Many };

/// Text from elsewhere as a terminal may be shown it: each control character, of C0, C1 (which some terminals
/// take for the start of a sequence as well) and DEL, is a '?'. With Lines::Many newlines and tabs stay.
[[nodiscard]] std::string printable(std::string_view text, Lines lines = Lines::One);

}  // namespace vmmd
