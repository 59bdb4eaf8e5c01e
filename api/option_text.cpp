#include "api/option_text.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include <fmt/format.h>

#include "api/edit_distance.h"
#include "api/options.h"

namespace vmmd::api {

namespace {

constexpr std::size_t kMaxListedCpus = 65'536;
constexpr std::uint64_t kMaxCpuNumber = 65'535;

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

std::string_view unquoted(std::string_view text) {
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') return text.substr(1, text.size() - 2);
  return text;
}

bool contains(std::initializer_list<std::string_view> list, std::string_view word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

}  // namespace

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

Result<std::vector<std::string_view>> split_outside_brackets(std::string_view text, char separator) {
  std::vector<std::string_view> pieces;
  if (text.empty()) return pieces;
  std::size_t depth = 0;
  bool quoted = false;
  std::size_t start = 0;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    const bool end = i == text.size();
    const char c = end ? separator : text[i];
    if (!end && c == '"') {
      quoted = !quoted;
    } else if (!end && !quoted && c == '[') {
      ++depth;
    } else if (!end && !quoted && c == ']') {
      if (depth == 0) return fail(ErrorCode::BadRequest, "\"{}\" closes a bracket it never opened", text);
      --depth;
    } else if (c == separator && (end || (!quoted && depth == 0))) {
      if (i == start) return fail(ErrorCode::BadRequest, "\"{}\" has an empty element", text);
      pieces.push_back(text.substr(start, i - start));
      start = i + 1;
    }
  }
  if (depth != 0) return fail(ErrorCode::BadRequest, "\"{}\" never closes a bracket", text);
  if (quoted) return fail(ErrorCode::BadRequest, "\"{}\" never closes a quotation mark", text);
  return pieces;
}

Result<std::vector<std::string_view>> split_list(std::string_view text) {
  if (text.size() >= 2 && text.front() == '[' && text.back() == ']') text = text.substr(1, text.size() - 2);
  return split_outside_brackets(text, ',');
}

Result<std::uint64_t> parse_number(std::string_view text, std::uint64_t min, std::uint64_t max) {
  const bool hexadecimal = text.starts_with("0x") || text.starts_with("0X");
  const std::string_view digits = hexadecimal ? text.substr(2) : text;
  std::uint64_t number = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), number, hexadecimal ? 16 : 10);
  if (digits.empty() || end != digits.data() + digits.size() || error == std::errc::invalid_argument) {
    return fail(ErrorCode::BadRequest, "\"{}\" is not a number", text);
  }
  if (error != std::errc() || number < min || number > max) {
    return fail(ErrorCode::BadRequest, "{} is not in the range {} to {}", text, min, max);
  }
  return number;
}

Result<std::vector<unsigned>> parse_cpu_list(std::string_view text) {
  VMMD_ASSIGN(const auto pieces, split_list(text));
  std::vector<unsigned> cpus;
  for (const std::string_view piece : pieces) {
    const auto dash = piece.find('-');
    VMMD_ASSIGN(const auto first, parse_number(piece.substr(0, dash), 0, kMaxCpuNumber));
    std::uint64_t last = first;
    if (dash != std::string_view::npos) {
      VMMD_ASSIGN(last, parse_number(piece.substr(dash + 1), first, kMaxCpuNumber));
    }
    if (cpus.size() + (last - first) >= kMaxListedCpus) {
      return fail(ErrorCode::BadRequest, "\"{}\" lists too many CPUs", text);
    }
    for (std::uint64_t cpu = first; cpu <= last; ++cpu) cpus.push_back(static_cast<unsigned>(cpu));
  }
  return cpus;
}

Result<std::vector<std::int32_t>> parse_descriptors(std::string_view text) {
  VMMD_ASSIGN(const auto pieces, split_list(text));
  if (pieces.empty()) return fail(ErrorCode::BadRequest, "no descriptor is named");
  std::vector<std::int32_t> numbers;
  for (const std::string_view piece : pieces) {
    VMMD_ASSIGN(const auto number, parse_number(piece, 0, std::numeric_limits<std::int32_t>::max()));
    numbers.push_back(static_cast<std::int32_t>(number));
  }
  return numbers;
}

Result<OptionText> OptionText::parse(std::string_view option, std::string_view text,
                                     std::initializer_list<std::string_view> keys,
                                     std::initializer_list<std::string_view> words) {
  auto pieces = split_outside_brackets(text, ',');
  if (!pieces) return wrap(std::move(pieces).error(), "{}", option);
  OptionText out(option);
  for (const std::string_view piece : *pieces) {
    const auto equals = piece.find('=');
    const std::string_view key = piece.substr(0, equals);
    const bool has_value = equals != std::string_view::npos;
    if (!contains(has_value ? keys : words, key)) {
      if (contains(has_value ? words : keys, key)) {
        return fail(ErrorCode::BadRequest, "{}: {} {}", option, key,
                    has_value ? "takes no value" : "needs a value");
      }
      std::vector<std::string_view> known(keys);
      known.insert(known.end(), words);
      const std::string_view near = closest(key, known);
      return fail(ErrorCode::BadRequest, "{}: unknown key \"{}\"; {}", option, key,
                  near.empty() ? fmt::format("the keys are {}", fmt::join(known, ", "))
                               : fmt::format("did you mean {}?", near));
    }
    const std::string_view value = has_value ? unquoted(piece.substr(equals + 1)) : std::string_view();
    if (!out.values_.emplace(key, value).second) {
      return fail(ErrorCode::BadRequest, "{}: {} is given twice", option, key);
    }
  }
  return out;
}

std::optional<std::string_view> OptionText::value(std::string_view key) const {
  const auto it = values_.find(key);
  if (it == values_.end()) return std::nullopt;
  return it->second;
}

tl::unexpected<Error> OptionText::blame(std::string_view key, Error error) const {
  return wrap(std::move(error), "{} {}=", option_, key);
}

Status OptionText::read_toggle(std::string_view key, bool& out) const {
  const auto text = value(key);
  if (!text) return {};
  auto toggle = parse_toggle(*text);
  if (!toggle) return blame(key, std::move(toggle).error());
  out = *toggle;
  return {};
}

Status OptionText::read_size(std::string_view key, std::uint64_t& out) const {
  const auto text = value(key);
  if (!text) return {};
  auto size = parse_size(*text);
  if (!size) return blame(key, std::move(size).error());
  out = *size;
  return {};
}

Status OptionText::read_size(std::string_view key, std::optional<std::uint64_t>& out) const {
  if (!has(key)) return {};
  std::uint64_t size = 0;
  VMMD_TRY(read_size(key, size));
  out = size;
  return {};
}

Status OptionText::read_number(std::string_view key, unsigned& out, std::uint64_t min,
                               std::uint64_t max) const {
  const auto text = value(key);
  if (!text) return {};
  auto number = parse_number(*text, min, max);
  if (!number) return blame(key, std::move(number).error());
  out = static_cast<unsigned>(*number);
  return {};
}

void OptionText::read_string(std::string_view key, std::optional<std::string>& out) const {
  if (const auto text = value(key)) out = std::string(*text);
}

Status OptionText::unknown_name(std::string_view key, std::string_view given,
                                const std::vector<std::string_view>& names) const {
  return fail(ErrorCode::BadRequest, "{} {}=: \"{}\" is none of {}", option_, key, given,
              fmt::join(names, ", "));
}

}  // namespace vmmd::api
