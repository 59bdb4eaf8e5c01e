#include "base/result.h"

#include <cstring>

#include <fmt/format.h>

namespace vmmd {

std::string Error::to_string() const {
  return fmt::format("{}", fmt::join(messages, ": "));
}

namespace detail {

Error make_error(ErrorCode code, std::string message) {
  return Error{code, {std::move(message)}};
}

Error make_errno_error(ErrorCode code, int error, std::string message) {
  char buffer[128];
  return Error{code, {std::move(message), strerror_r(error, buffer, sizeof buffer)}};
}

Error prepend(Error cause, std::string message) {
  cause.messages.insert(cause.messages.begin(), std::move(message));
  return cause;
}

}  // namespace detail
}  // namespace vmmd
