#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "api/field_rule.h"

namespace vmmd::api {

/// The visitor that writes a struct into a JSON object by the struct's field table. Optionals that are not
/// set are left out, everything else is written, defaults included.
class JsonWriter {
 public:
  explicit JsonWriter(nlohmann::ordered_json& object);

  template <class T>
  void operator()(std::string_view name, const T& member, const FieldRule& /*rule*/ = {}) {
    if constexpr (requires { member.has_value(); }) {
      if (member) write(add(name), *member);
    } else {
      write(add(name), member);
    }
  }

 private:
  template <class T>
  static void write(nlohmann::ordered_json& out, const T& value) {
    if constexpr (std::same_as<T, bool>) {
      set_bool(out, value);
    } else if constexpr (std::unsigned_integral<T>) {
      set_unsigned(out, value);
    } else if constexpr (std::signed_integral<T>) {
      set_signed(out, value);
    } else if constexpr (std::floating_point<T>) {
      set_number(out, value);
    } else if constexpr (std::is_enum_v<T>) {
      set_string(out, enum_name(value));
    } else if constexpr (std::convertible_to<const T&, std::string_view>) {
      set_string(out, value);
    } else if constexpr (requires { typename T::mapped_type; }) {
      JsonWriter writer(out);
      for (const auto& [key, item] : value) writer(key, item);
    } else if constexpr (requires { value.begin(); }) {
      set_list(out);
      for (const auto& item : value) write(append(out), item);
    } else {
      JsonWriter writer(out);
      fields(writer, value);
    }
  }

  nlohmann::ordered_json& add(std::string_view name);
  static nlohmann::ordered_json& append(nlohmann::ordered_json& list);
  static void set_list(nlohmann::ordered_json& out);
  static void set_bool(nlohmann::ordered_json& out, bool value);
  static void set_unsigned(nlohmann::ordered_json& out, std::uint64_t value);
  static void set_signed(nlohmann::ordered_json& out, std::int64_t value);
  static void set_number(nlohmann::ordered_json& out, double value);
  static void set_string(nlohmann::ordered_json& out, std::string_view value);

  nlohmann::ordered_json& object_;
};

/// As text. Bytes that are not UTF-8 (a path may have some) become U+FFFD.
[[nodiscard]] std::string json_text(const nlohmann::ordered_json& value, bool pretty);

}  // namespace vmmd::api
