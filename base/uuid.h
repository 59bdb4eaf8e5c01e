#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace vmmd {

/// A UUID (RFC 9562), bytes in the order in which they are printed.
struct Uuid {
  std::array<std::uint8_t, 16> bytes = {};

  /// Version 4, from getrandom(2).
  static Result<Uuid> random();

  /// Exactly "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"; either case of hexadecimal digits.
  static std::optional<Uuid> parse(std::string_view text);

  /// 36 characters, lower case.
  [[nodiscard]] std::string to_string() const;

  bool operator==(const Uuid&) const = default;
};

}  // namespace vmmd
