#include "api/json_reader.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/edit_distance.h"

namespace vmmd::api {

using nlohmann::json;

namespace {

constexpr std::size_t kQuotedLimit = 64;  // of a stranger's text in a message

std::string_view cut(std::string_view text) {
  return text.substr(0, kQuotedLimit);
}

std::string describe(const json& value) {
  switch (value.type()) {
    case json::value_t::null:
      return "null";
    case json::value_t::boolean:
      return "a boolean";
    case json::value_t::number_float:
      // What does not fit 64 bits arrives as one, too.
      return "a number that is no 64-bit integer";
    case json::value_t::number_integer:
      return "a negative number";
    case json::value_t::number_unsigned:
      return "a number";
    case json::value_t::string:
      return "a string";
    case json::value_t::array:
      return "a list";
    case json::value_t::object:
      return "an object";
    default:
      return "something else";
  }
}

}  // namespace

std::string JsonPath::to_string() const {
  if (parent_ == nullptr) return "(root)";
  std::string out = parent_->parent_ == nullptr ? "" : parent_->to_string();
  out += '/';
  if (is_index_) return out + std::to_string(index_);
  for (const char c : cut(key_)) {
    if (c == '~') {
      out += "~0";
    } else if (c == '/') {
      out += "~1";
    } else {
      out += c;
    }
  }
  return out;
}

void JsonMistakes::add(std::string_view pointer, std::string_view what) {
  if (messages_.size() < kLimit) {
    messages_.push_back(fmt::format("{}: {}", pointer, what));
  }
}

JsonReader::JsonReader(const json& object, const JsonPath& path, JsonMistakes& mistakes)
    : object_(object.is_object() ? &object : nullptr), path_(path), mistakes_(mistakes) {
  if (object_ == nullptr) mistakes_.add(path_, fmt::format("expected an object, got {}", describe(object)));
}

const json* JsonReader::take(std::string_view name, const FieldRule& rule, bool nullable_type) {
  if (object_ == nullptr) return nullptr;
  names_.push_back(name);
  const auto it = object_->find(name);
  const bool absent = it == object_->end() || ((rule.nullable || nullable_type) && it->is_null());
  if (!absent) return &*it;
  if (rule.required) mistakes_.add(JsonPath(path_, name), "missing");
  return nullptr;
}

bool JsonReader::given(std::string_view name) const {
  if (object_ == nullptr) return false;
  const auto it = object_->find(name);
  return it != object_->end() && !it->is_null();
}

void JsonReader::finish() {
  if (object_ == nullptr) return;
  for (const auto& [key, value] : object_->items()) {
    if (std::find(names_.begin(), names_.end(), key) != names_.end()) continue;
    const std::string_view near = closest(key, names_);
    const JsonPath path(path_, key);
    if (near.empty()) {
      mistakes_.add(path, "unknown field");
    } else {
      mistakes_.add(path, fmt::format("unknown field; did you mean \"{}\"?", near));
    }
  }
}

bool JsonReader::read_bool(const json& value, const JsonPath& path, bool& out) {
  if (!value.is_boolean()) {
    mistakes_.add(path, fmt::format("expected true or false, got {}", describe(value)));
    return false;
  }
  out = value.get<bool>();
  return true;
}

bool JsonReader::read_unsigned(const json& value, const JsonPath& path, std::uint64_t min, std::uint64_t max,
                               std::uint64_t& out) {
  std::uint64_t number = 0;
  if (value.is_number_unsigned()) {
    number = value.get<std::uint64_t>();
  } else if (!value.is_number_integer() ||
             value.get<std::int64_t>() != 0) {  // "-0" is an integer to nlohmann
    mistakes_.add(path, fmt::format("expected an unsigned integer, got {}", describe(value)));
    return false;
  }
  if (number < min || number > max) {
    mistakes_.add(path, fmt::format("{} is not in the range {} to {}", number, min, max));
    return false;
  }
  out = number;
  return true;
}

bool JsonReader::read_signed(const json& value, const JsonPath& path, std::int64_t min, std::int64_t max,
                             std::int64_t& out) {
  if (!value.is_number_integer()) {
    mistakes_.add(path, fmt::format("expected an integer, got {}", describe(value)));
    return false;
  }
  const bool too_large =
      value.is_number_unsigned() && !std::in_range<std::int64_t>(value.get<std::uint64_t>());
  const std::int64_t number = too_large ? 0 : value.get<std::int64_t>();
  if (too_large || number < min || number > max) {
    mistakes_.add(path, fmt::format("{} is not in the range {} to {}", value.dump(), min, max));
    return false;
  }
  out = number;
  return true;
}

bool JsonReader::read_string(const json& value, const JsonPath& path, std::string& out) {
  if (!value.is_string()) {
    mistakes_.add(path, fmt::format("expected a string, got {}", describe(value)));
    return false;
  }
  out = value.get_ref<const std::string&>();
  return true;
}

bool JsonReader::read_strings(const json& value, const JsonPath& path,
                              std::map<std::string, std::string>& out) {
  if (!value.is_object()) {
    mistakes_.add(path, fmt::format("expected an object of strings, got {}", describe(value)));
    return false;
  }
  out.clear();
  for (const auto& [key, text] : value.items()) read_string(text, JsonPath(path, key), out[key]);
  return true;
}

bool JsonReader::read_raw(const json& value, const JsonPath& path, RawObject& out) {
  if (!value.is_object()) {
    mistakes_.add(path, fmt::format("expected an object, got {}", describe(value)));
    return false;
  }
  out.text = value.dump();
  return true;
}

bool JsonReader::is_list(const json& value, const JsonPath& path, std::size_t& size) {
  if (!value.is_array()) {
    mistakes_.add(path, fmt::format("expected a list, got {}", describe(value)));
    return false;
  }
  size = value.size();
  return true;
}

const json& JsonReader::element(const json& list, std::size_t index) {
  return list[index];
}

void JsonReader::unknown_name(const JsonPath& path, std::string_view given,
                              const std::vector<std::string_view>& names) {
  mistakes_.add(path, fmt::format("\"{}\" is none of \"{}\"", cut(given), fmt::join(names, "\", \"")));
}

}  // namespace vmmd::api
