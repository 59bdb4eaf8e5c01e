#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/field_rule.h"
#include "base/result.h"

namespace vmmd::api {

/// Cuts `text` at every `separator` outside of [ ] and " ". Empty pieces and brackets or quotes that do not
/// match are BadRequest; an empty text has no pieces.
[[nodiscard]] Result<std::vector<std::string_view>> split_outside_brackets(std::string_view text,
                                                                           char separator);

/// "[a,b]" or plain "a" as its elements.
[[nodiscard]] Result<std::vector<std::string_view>> split_list(std::string_view text);

/// Decimal, or hexadecimal after "0x".
[[nodiscard]] Result<std::uint64_t> parse_number(std::string_view text, std::uint64_t min, std::uint64_t max);

/// "3", "0-2" or "[0-2,5]".
[[nodiscard]] Result<std::vector<unsigned>> parse_cpu_list(std::string_view text);

/// "3" or "[3,7]": descriptors, by their numbers.
[[nodiscard]] Result<std::vector<std::int32_t>> parse_descriptors(std::string_view text);

[[nodiscard]] bool equal_ignoring_case(std::string_view a, std::string_view b);

/// The text of one option, `key=value,word,key="a,b"`, taken apart. The readers leave `out` alone when the
/// key was not given, and name option and key in their errors.
class OptionText {
 public:
  /// `keys` need a value, `words` stand alone; anything else, and anything twice, is BadRequest. `option`
  /// ("--cpus") must outlive this, and so must `text`.
  [[nodiscard]] static Result<OptionText> parse(std::string_view option, std::string_view text,
                                                std::initializer_list<std::string_view> keys,
                                                std::initializer_list<std::string_view> words = {});

  [[nodiscard]] bool has(std::string_view key) const { return values_.contains(key); }
  [[nodiscard]] std::optional<std::string_view> value(std::string_view key) const;

  Status read_toggle(std::string_view key, bool& out) const;
  Status read_size(std::string_view key, std::uint64_t& out) const;
  Status read_size(std::string_view key, std::optional<std::uint64_t>& out) const;
  Status read_number(std::string_view key, unsigned& out, std::uint64_t min, std::uint64_t max) const;
  void read_string(std::string_view key, std::optional<std::string>& out) const;

  /// A name of enum E, in any case.
  template <class E>
  Status read_name(std::string_view key, E& out) const {
    const auto text = value(key);
    if (!text) return {};
    std::vector<std::string_view> names;
    for (const auto& [name, candidate] : enum_names(E{})) {
      if (equal_ignoring_case(name, *text)) {
        out = candidate;
        return {};
      }
      names.push_back(name);
    }
    return unknown_name(key, *text, names);
  }

  /// Puts "--option key=" in front of an error.
  [[nodiscard]] tl::unexpected<Error> blame(std::string_view key, Error error) const;

 private:
  explicit OptionText(std::string_view option) : option_(option) {}
  Status unknown_name(std::string_view key, std::string_view given,
                      const std::vector<std::string_view>& names) const;

  std::string_view option_;
  std::map<std::string_view, std::string_view, std::less<>> values_;  // words have an empty value
};

}  // namespace vmmd::api
