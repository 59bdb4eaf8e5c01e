#include "base/result.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

namespace vmmd {

std::string Error::to_string() const {
  const std::size_t causes = messages.size() - std::min(side_by_side, messages.size());
  std::string text;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (i > 0) text += i <= causes ? ": " : "; ";
    text += messages[i];
  }
  return text;
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
