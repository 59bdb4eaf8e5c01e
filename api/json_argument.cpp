#include "api/json_argument.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "base/file.h"

namespace vmmd::api {

namespace {

/// The daemon takes no larger body.
constexpr std::size_t kBodyLimit = std::size_t{4} << 20;  // bytes

/// Pipes and FIFOs have no size, so this reads until the end.
Result<std::string> read_all(int fd, const std::string& name) {
  std::string text;
  char chunk[64 << 10];
  for (;;) {
    const ssize_t size = ::read(fd, chunk, sizeof chunk);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return fail_errno(ErrorCode::BadRequest, errno, "cannot read {}", name);
    if (size == 0) return text;
    text.append(chunk, static_cast<std::size_t>(size));
    if (text.size() > kBodyLimit) {
      return fail(ErrorCode::TooLarge, "{} has more than {} bytes, which the daemon would refuse", name,
                  kBodyLimit);
    }
  }
}

}  // namespace

Result<std::string> read_json_argument(const std::string& source) {
  if (source.starts_with('{')) return source;
  if (source == "-") return read_all(STDIN_FILENO, "standard input");
  VMMD_ASSIGN(const UniqueFd fd, open_file(source, O_RDONLY));
  return read_all(fd.get(), source);
}

}  // namespace vmmd::api
