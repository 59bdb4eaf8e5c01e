#include "base/printable.h"

#include <cstddef>

namespace vmmd {

std::string printable(std::string_view text, Lines lines) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0u;
    if (byte == 0xC2 && next >= 0x80 && next < 0xA0) {  // U+0080..U+009F in UTF-8
      result += '?';
      ++i;
      continue;
    }
    const bool kept = lines == Lines::Many && (byte == '\n' || byte == '\t');
    result += is_control_character(text[i]) && !kept ? '?' : text[i];
  }
  return result;
}

}  // namespace vmmd
