#include "api/json_writer.h"

#include <nlohmann/json.hpp>

namespace vmmd::api {

using nlohmann::ordered_json;

namespace {
// More fields than most structs have. Without it the object grows step by step, and each step copies all its
// values with everything below them, because its keys are const and cannot be moved.
constexpr std::size_t kUsualFields = 32;
}  // namespace

JsonWriter::JsonWriter(ordered_json& object) : object_(object) {
  if (!object_.is_object()) object_ = ordered_json::object();
  object_.get_ref<ordered_json::object_t&>().reserve(kUsualFields);
}

ordered_json& JsonWriter::add(std::string_view name) {
  return object_[std::string(name)];
}

ordered_json& JsonWriter::append(ordered_json& list) {
  return list.emplace_back();
}

void JsonWriter::set_list(ordered_json& out) {
  out = ordered_json::array();
}
void JsonWriter::set_bool(ordered_json& out, bool value) {
  out = value;
}
void JsonWriter::set_unsigned(ordered_json& out, std::uint64_t value) {
  out = value;
}
void JsonWriter::set_signed(ordered_json& out, std::int64_t value) {
  out = value;
}
void JsonWriter::set_number(ordered_json& out, double value) {
  out = value;
}
void JsonWriter::set_string(ordered_json& out, std::string_view value) {
  out = std::string(value);
}

std::string json_text(const ordered_json& value, bool pretty) {
  return value.dump(pretty ? 2 : -1, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace vmmd::api
