#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>

#include "base/result.h"

namespace vmmd::devices {

/// For direct I/O, which wants buffers that begin and end where the device can: the few of a guest that do
/// not go through this one. Made once.
class Bounce {
 public:
  /// By what the file says (statx). BadRequest if it takes no direct I/O, or none of single sectors.
  static Result<Bounce> create(int fd, const std::string& name);

  [[nodiscard]] bool fits(std::span<const iovec> buffers) const;
  /// The first part of the buffers, as preadv() and pwritev2() would; at most the bounce buffer's size.
  [[nodiscard]] ssize_t read(int fd, std::span<const iovec> buffers, std::uint64_t offset);
  [[nodiscard]] ssize_t write(int fd, std::span<const iovec> buffers, std::uint64_t offset, int flags);

 private:
  static constexpr std::size_t kSize = std::size_t{256} << 10;  // bytes
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  Bounce(std::size_t alignment, std::byte* bytes) : alignment_(alignment), bytes_(bytes) {}

  std::size_t alignment_;
  std::unique_ptr<std::byte, Free> bytes_;
};

}  // namespace vmmd::devices
