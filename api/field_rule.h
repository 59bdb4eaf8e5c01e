#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <type_traits>
#include <utility>

namespace vmmd::api {

// One table per struct, `fields(visitor, object)`, names its members as the JSON does. Reading, writing and
// whatever else walks a configuration use the same table, so they cannot drift apart.

/// What a reader checks about one field beyond its type.
struct FieldRule {
  bool required = false;
  /// `null` means "not given". Always so for optionals and lists.
  bool nullable = false;
  std::uint64_t min = 0;  // for unsigned integers, elements included
  std::uint64_t max = std::numeric_limits<std::uint64_t>::max();
};

inline constexpr FieldRule kRequired{.required = true};

/// `ConstOr<T> auto&`: the same table serves a const object (writing) and another one (reading).
template <class C, class T>
concept ConstOr = std::same_as<std::remove_const_t<C>, T>;

/// Names of an enum: `constexpr auto enum_names(E)` gives an array of these, found by argument-dependent
/// lookup. Several names may stand for one value; the first is the one written.
template <class E>
using EnumName = std::pair<std::string_view, E>;

template <class E>
[[nodiscard]] constexpr std::string_view enum_name(E value) {
  for (const auto& [name, candidate] : enum_names(E{})) {
    if (candidate == value) return name;
  }
  return "?";
}

}  // namespace vmmd::api
