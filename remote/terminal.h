#pragma once

#include <termios.h>

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

// The user's terminal while it belongs to the guest.
namespace vmmd::remote {

/// Sets standard input raw, if it is a terminal, and gives it back as it was.
class RawTerminal {
 public:
  RawTerminal();
  ~RawTerminal();
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

  [[nodiscard]] bool is_raw() const { return before_.has_value(); }

 private:
  std::optional<termios> before_;
};

/// Looks for the key that leaves, in what is typed.
class EscapeFilter {
 public:
  /// "^]" and the like for a control key, "~." at the start of a line as ssh has it ("~~" is one tilde),
  /// "none".
  static Result<EscapeFilter> parse(std::string_view spec);

  /// What of `typed` is for the guest. Nothing behind the escape is.
  [[nodiscard]] std::string feed(std::string_view typed);
  [[nodiscard]] bool escaped() const { return escaped_; }
  /// "Ctrl-]", "~."; empty for none.
  [[nodiscard]] std::string hint() const;

 private:
  enum class Kind { None, Key, Tilde };
  Kind kind_ = Kind::None;
  char key_ = 0;
  bool line_start_ = true;
  bool tilde_ = false;  // one was held back at the start of a line
  bool escaped_ = false;
};

}  // namespace vmmd::remote
