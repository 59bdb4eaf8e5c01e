#include "base/random.h"

#include <sys/random.h>

#include <cerrno>

namespace vmmd {

Status fill_random(std::span<std::byte> out, std::string_view failure) {
  ssize_t count = 0;
  do {
    count = ::getrandom(out.data(), out.size(), 0);
  } while (count < 0 && errno == EINTR);
  // Up to 256 bytes come whole or not at all (getrandom(2)).
  if (count != static_cast<ssize_t>(out.size())) {
    return fail_errno(ErrorCode::Internal, errno, "{}", failure);
  }
  return {};
}

}  // namespace vmmd
