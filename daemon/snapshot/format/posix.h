#pragma once

#include <dirent.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace vmmd::snapshot {

/// Repeats a system call that a signal interrupted.
template <class Call>
auto retry(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

/// fsync(2); `name` is for the message. Directories on filesystems that cannot sync them (EINVAL) pass.
Status sync_file(int fd, const std::string& name);

/// Names in the open directory `fd`, without "." and "..", at most `limit` of them.
Result<std::vector<std::string>> directory_entries(int fd, std::size_t limit, const std::string& name);

/// As write_all_at(), with the messages of fail_writing().
Status write_out(int fd, std::span<const std::byte> data, std::uint64_t offset, const std::string& name);

/// Did a full disk, or a used up quota, cause it? By what fail_writing() and strerror() say of those.
enum class Space : std::uint8_t { Enough, DiskFull, QuotaUsedUp };
[[nodiscard]] Space space_of(const Error& error);

/// A message for the errors that writing in a directory commonly meets: disk full, quota, read-only, …
[[nodiscard]] tl::unexpected<Error> fail_writing(int error, const std::string& what,
                                                 const std::string& where);

}  // namespace vmmd::snapshot
