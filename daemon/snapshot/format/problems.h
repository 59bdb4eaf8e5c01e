#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/core.h>

#include "base/result.h"

namespace vmmd::snapshot {

/// Everything that is wrong with a snapshot, so that one error says all of it.
class Problems {
 public:
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    keep(fmt::format(format, std::forward<Args>(args)...));
  }
  /// The whole chain of `error` as one problem.
  void add(const Error& error) { keep(error.to_string()); }

  [[nodiscard]] bool empty() const { return messages_.empty(); }
  [[nodiscard]] const std::vector<std::string>& messages() const { return messages_; }

  /// Nothing when empty; else an Error whose first message is `headline` and the others are the problems.
  Status to_status(ErrorCode code, std::string headline) const;

 private:
  // A hostile manifest can break a rule thousands of times; beyond this many only the last message changes.
  static constexpr std::size_t kLimit = 64;

  void keep(std::string message);

  std::vector<std::string> messages_;
  std::size_t dropped_ = 0;
};

/// Text from a snapshot as it may stand in a message: cut after 64 bytes, control characters replaced.
[[nodiscard]] std::string shown(std::string_view text);

}  // namespace vmmd::snapshot
