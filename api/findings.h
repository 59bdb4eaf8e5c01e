#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/result.h"

namespace vmmd::api {

/// What a check found wrong, kept until all checks are done.
class Findings {
 public:
  /// `pointer` is a JSON pointer into the configuration.
  template <class... Args>
  void add(ErrorCode code, std::string_view pointer, fmt::format_string<Args...> format, Args&&... args) {
    messages_[code].push_back(
        fmt::format("{}: {}", pointer, fmt::format(format, std::forward<Args>(args)...)));
  }

  /// All messages under the code that the client has to mend first: by number, which puts 400 before 409
  /// before 501.
  [[nodiscard]] Status status() && {
    if (messages_.empty()) return {};
    Error error{messages_.begin()->first, {}};
    for (auto& [code, messages] : messages_) {
      for (std::string& message : messages) error.messages.push_back(std::move(message));
    }
    error.side_by_side = error.messages.size();
    return tl::make_unexpected(std::move(error));
  }

 private:
  std::map<ErrorCode, std::vector<std::string>> messages_;
};

/// What went wrong with one field or object of the configuration, said as Findings does.
[[nodiscard]] inline tl::unexpected<Error> blame(std::string_view pointer, Error error) {
  error.messages.front().insert(0, fmt::format("{}: ", pointer));
  return tl::make_unexpected(std::move(error));
}

}  // namespace vmmd::api
