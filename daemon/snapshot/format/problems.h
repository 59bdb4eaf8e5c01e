#pragma once

#include <string>
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
    messages_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  /// The whole chain of `error` as one problem.
  void add(const Error& error) { messages_.push_back(error.to_string()); }

  [[nodiscard]] bool empty() const { return messages_.empty(); }
  [[nodiscard]] const std::vector<std::string>& messages() const { return messages_; }

  /// Nothing when empty; else an Error whose first message is `headline` and the others are the problems.
  Status to_status(ErrorCode code, std::string headline) const;

 private:
  std::vector<std::string> messages_;
};

}  // namespace vmmd::snapshot
