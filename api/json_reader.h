#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "api/field_rule.h"
#include "base/result.h"

namespace vmmd::api {

/// Where a value stands in its document: a chain on the stack, written out as a JSON pointer (RFC 6901) only
/// for a mistake.
class JsonPath {
 public:
  JsonPath() = default;
  /// `key` and `parent` must outlive this.
  JsonPath(const JsonPath& parent, std::string_view key) : parent_(&parent), key_(key) {}
  JsonPath(const JsonPath& parent, std::size_t index) : parent_(&parent), is_index_(true), index_(index) {}

  /// "/disks/0/path"; "(root)" for the whole document. Long keys are cut.
  [[nodiscard]] std::string to_string() const;

 private:
  const JsonPath* parent_ = nullptr;
  std::string_view key_;
  bool is_index_ = false;
  std::size_t index_ = 0;
};

/// What is wrong with a document: one message each, at most kLimit of them.
class JsonMistakes {
 public:
  static constexpr std::size_t kLimit = 32;

  void add(const JsonPath& path, std::string_view what) { add(path.to_string(), what); }
  void add(std::string_view pointer, std::string_view what);
  [[nodiscard]] bool empty() const { return messages_.empty(); }
  [[nodiscard]] Error take() {
    const std::size_t count = messages_.size();
    return Error{ErrorCode::BadRequest, std::move(messages_), count};
  }

 private:
  std::vector<std::string> messages_;
};

/// A document that passed all checks of form: length, UTF-8, nesting, number of values, length of strings, no
/// NUL in them, no key twice. Everything later can rely on these.
class JsonDocument {
 public:
  static constexpr std::size_t kMaxLength = std::size_t{4} << 20;  // bytes; Cloud Hypervisor's body limit
  static constexpr std::size_t kMaxDepth = 32;
  static constexpr std::size_t kMaxValues = 200'000;
  static constexpr std::size_t kMaxString = 65'536;  // bytes; the longest command line Linux could be given

  [[nodiscard]] static Result<JsonDocument> parse(std::string_view text);

  JsonDocument(JsonDocument&&) noexcept;
  JsonDocument& operator=(JsonDocument&&) noexcept;
  ~JsonDocument();

  [[nodiscard]] const nlohmann::json& root() const { return *root_; }

 private:
  explicit JsonDocument(std::unique_ptr<nlohmann::json> root);
  std::unique_ptr<nlohmann::json> root_;
};

/// A JSON object of any shape, kept as its text.
struct RawObject {
  std::string text;
};

/// The visitor that fills a struct from a JSON object by the struct's field table. Collects every mistake and
/// goes on; a member whose value is wrong keeps what it had.
class JsonReader {
 public:
  JsonReader(const nlohmann::json& object, const JsonPath& path, JsonMistakes& mistakes);

  template <class T>
  void operator()(std::string_view name, T& member, const FieldRule& rule = {}) {
    if (const nlohmann::json* value = take(name, rule, kNullable<T>)) {
      read(*value, JsonPath(path_, name), member, rule);
    }
  }

  /// Whether the object has this member, and not as null.
  [[nodiscard]] bool given(std::string_view name) const;
  /// Call once after all fields: what was not asked for is unknown.
  void finish();

 private:
  template <class T>
  struct IsOptional : std::false_type {};
  template <class T>
  struct IsOptional<std::optional<T>> : std::true_type {};
  template <class T>
  struct IsList : std::false_type {};
  template <class T>
  struct IsList<std::vector<T>> : std::true_type {};
  template <class T>
  static constexpr bool kNullable = std::disjunction_v<IsOptional<T>, IsList<T>>;

  const nlohmann::json* take(std::string_view name, const FieldRule& rule, bool nullable_type);

  template <class T>
  void read(const nlohmann::json& value, const JsonPath& path, T& out, const FieldRule& rule);
  template <class E>
  void read_enum(const nlohmann::json& value, const JsonPath& path, E& out);

  // The parts that need to see nlohmann's type. False: a mistake was added.
  bool read_bool(const nlohmann::json& value, const JsonPath& path, bool& out);
  bool read_unsigned(const nlohmann::json& value, const JsonPath& path, std::uint64_t min, std::uint64_t max,
                     std::uint64_t& out);
  bool read_signed(const nlohmann::json& value, const JsonPath& path, std::int64_t min, std::int64_t max,
                   std::int64_t& out);
  bool read_string(const nlohmann::json& value, const JsonPath& path, std::string& out);
  bool read_strings(const nlohmann::json& value, const JsonPath& path,
                    std::map<std::string, std::string>& out);
  bool read_raw(const nlohmann::json& value, const JsonPath& path, RawObject& out);
  bool is_list(const nlohmann::json& value, const JsonPath& path, std::size_t& size);
  static const nlohmann::json& element(const nlohmann::json& list, std::size_t index);
  void unknown_name(const JsonPath& path, std::string_view given, const std::vector<std::string_view>& names);

  const nlohmann::json* object_;  // null: was not an object, which has been said
  const JsonPath& path_;
  JsonMistakes& mistakes_;
  std::vector<std::string_view> names_;  // asked for so far
};

/// Parses `text` and fills a T from it.
template <class T>
[[nodiscard]] Result<T> read_json(std::string_view text) {
  VMMD_ASSIGN(const JsonDocument document, JsonDocument::parse(text));
  JsonMistakes mistakes;
  const JsonPath root;
  T out;
  JsonReader reader(document.root(), root, mistakes);
  fields(reader, out);
  reader.finish();
  if (!mistakes.empty()) return tl::make_unexpected(mistakes.take());
  return out;
}

template <class T>
void JsonReader::read(const nlohmann::json& value, const JsonPath& path, T& out, const FieldRule& rule) {
  if constexpr (IsOptional<T>::value) {
    typename T::value_type item{};
    read(value, path, item, rule);
    out = std::move(item);
  } else if constexpr (IsList<T>::value) {
    std::size_t size = 0;
    if (!is_list(value, path, size)) return;
    out.clear();
    out.reserve(size);
    for (std::size_t i = 0; i < size; ++i) {
      typename T::value_type item{};
      read(element(value, i), JsonPath(path, i), item, rule);
      out.push_back(std::move(item));
    }
  } else if constexpr (std::same_as<T, bool>) {
    read_bool(value, path, out);
  } else if constexpr (std::unsigned_integral<T>) {
    std::uint64_t number = 0;
    const std::uint64_t max = std::min<std::uint64_t>(rule.max, std::numeric_limits<T>::max());
    if (read_unsigned(value, path, rule.min, max, number)) out = static_cast<T>(number);
  } else if constexpr (std::signed_integral<T>) {
    std::int64_t number = 0;
    if (read_signed(value, path, std::numeric_limits<T>::min(), std::numeric_limits<T>::max(), number)) {
      out = static_cast<T>(number);
    }
  } else if constexpr (std::is_enum_v<T>) {
    read_enum(value, path, out);
  } else if constexpr (std::same_as<T, std::string>) {
    read_string(value, path, out);
  } else if constexpr (std::same_as<T, std::map<std::string, std::string>>) {
    read_strings(value, path, out);
  } else if constexpr (std::same_as<T, RawObject>) {
    read_raw(value, path, out);
  } else {
    JsonReader reader(value, path, mistakes_);
    fields(reader, out);
    reader.finish();
  }
}

template <class E>
void JsonReader::read_enum(const nlohmann::json& value, const JsonPath& path, E& out) {
  std::string text;
  if (!read_string(value, path, text)) return;
  std::vector<std::string_view> names;
  for (const auto& [name, candidate] : enum_names(E{})) {
    if (name == text) {
      out = candidate;
      return;
    }
    names.push_back(name);
  }
  unknown_name(path, text, names);
}

}  // namespace vmmd::api
