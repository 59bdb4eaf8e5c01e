#include "remote/terminal.h"

#include <unistd.h>

#include <fmt/format.h>

namespace vmmd::remote {

RawTerminal::RawTerminal() {
  termios now = {};
  if (::tcgetattr(STDIN_FILENO, &now) != 0) return;
  termios raw = now;
  ::cfmakeraw(&raw);
  if (::tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0) before_ = now;
}

RawTerminal::~RawTerminal() {
  if (before_) ::tcsetattr(STDIN_FILENO, TCSADRAIN, &*before_);
}

Result<EscapeFilter> EscapeFilter::parse(std::string_view spec) {
  EscapeFilter filter;
  if (spec == "none") return filter;
  if (spec == "~.") {
    filter.kind_ = Kind::Tilde;
    return filter;
  }
  if (spec.size() == 2 && spec[0] == '^') {
    const char upper = spec[1] >= 'a' && spec[1] <= 'z' ? static_cast<char>(spec[1] - 'a' + 'A') : spec[1];
    if (upper >= '@' && upper <= '_') {
      filter.kind_ = Kind::Key;
      filter.key_ = static_cast<char>(upper - '@');
      return filter;
    }
  }
  return fail(ErrorCode::BadRequest, "\"{}\" is no escape: give ^] or another control key, ~. or none", spec);
}

std::string EscapeFilter::feed(std::string_view typed) {
  std::string out;
  for (const char c : typed) {
    if (escaped_) break;
    if (kind_ == Kind::Key && c == key_) {
      escaped_ = true;
    } else if (kind_ == Kind::Tilde && tilde_) {
      tilde_ = false;
      if (c == '.') {
        escaped_ = true;
        break;
      }
      out += '~';
      if (c != '~') out += c;
      line_start_ = c == '\r' || c == '\n';
    } else if (kind_ == Kind::Tilde && line_start_ && c == '~') {
      tilde_ = true;
    } else {
      out += c;
      line_start_ = c == '\r' || c == '\n';
    }
  }
  return out;
}

std::string EscapeFilter::hint() const {
  if (kind_ == Kind::Tilde) return "~.";
  if (kind_ == Kind::Key) return fmt::format("Ctrl-{}", static_cast<char>(key_ + '@'));
  return {};
}

}  // namespace vmmd::remote
