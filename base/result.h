#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/core.h>
#include <tl/expected.hpp>

namespace vmmd {

/// What went wrong, as the API reports it: each value is the HTTP status of the answer.
enum class ErrorCode : std::uint16_t {
  BadRequest = 400,    // malformed or impossible input
  NotFound = 404,      // no such VM, device, job
  WrongState = 405,    // known command, not legal in the VM's state
  Conflict = 409,      // an id, a file or a lock is already in use
  TooLarge = 413,      // a limit of size
  TooMany = 429,       // a limit of rate or of pending work
  Internal = 500,      // the host failed us, or we failed
  NotSupported = 501,  // known to the schema, not built here
};

/// An error with its causes. Messages say what failed, on which object, and what to do about it.
struct Error {
  ErrorCode code = ErrorCode::Internal;
  /// Outermost first; never empty. This is the body of an HTTP error answer.
  std::vector<std::string> messages;
  /// How many of the last messages stand side by side (a list of mistakes), rather than each causing the one
  /// before.
  std::size_t side_by_side = 0;

  /// All messages in one line, for logs: causes joined by ": ", what stands side by side by "; ".
  [[nodiscard]] std::string to_string() const;
};

/// A value or an Error. Never ignored: it is [[nodiscard]].
template <class T>
class [[nodiscard]] Result : public tl::expected<T, Error> {
 public:
  using tl::expected<T, Error>::expected;
};

using Status = Result<void>;

namespace detail {
Error make_error(ErrorCode code, std::string message);
Error make_errno_error(ErrorCode code, int error, std::string message);
Error prepend(Error cause, std::string message);
}  // namespace detail

/// `return fail(ErrorCode::NotFound, "no disk named \"{}\"", id);`
template <class... Args>
[[nodiscard]] tl::unexpected<Error> fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return tl::make_unexpected(detail::make_error(code, fmt::format(format, std::forward<Args>(args)...)));
}

/// As fail(), with strerror(`error`) as the cause. Pass `errno` saved right after the failing call.
template <class... Args>
[[nodiscard]] tl::unexpected<Error> fail_errno(ErrorCode code, int error, fmt::format_string<Args...> format,
                                               Args&&... args) {
  return tl::make_unexpected(
      detail::make_errno_error(code, error, fmt::format(format, std::forward<Args>(args)...)));
}

/// Puts a message in front of a cause, and keeps the cause's code.
template <class... Args>
[[nodiscard]] tl::unexpected<Error> wrap(Error cause, fmt::format_string<Args...> format, Args&&... args) {
  return tl::make_unexpected(
      detail::prepend(std::move(cause), fmt::format(format, std::forward<Args>(args)...)));
}

}  // namespace vmmd

#define VMMD_CONCAT_(a, b) a##b
#define VMMD_CONCAT(a, b) VMMD_CONCAT_(a, b)

/// Evaluates a Status or Result and returns its error from the enclosing function.
#define VMMD_TRY(expression)                                                      \
  do {                                                                            \
    auto&& vmmd_status = (expression);                                            \
    if (!vmmd_status) return tl::make_unexpected(std::move(vmmd_status).error()); \
  } while (false)

// NOLINTBEGIN(bugprone-macro-parentheses): names and declarations cannot stand in parentheses.
/// `VMMD_ASSIGN(auto fd, open_file(path));` : the value, or return of the error.
#define VMMD_ASSIGN(declaration, expression) \
  VMMD_ASSIGN_(VMMD_CONCAT(vmmd_result_, __LINE__), declaration, expression)
#define VMMD_ASSIGN_(result, declaration, expression)                 \
  auto result = (expression);                                         \
  if (!result) return tl::make_unexpected(std::move(result).error()); \
  declaration = std::move(*result)
// NOLINTEND(bugprone-macro-parentheses)
