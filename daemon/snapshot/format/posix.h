#pragma once

#include <dirent.h>

#include <cerrno>
#include <memory>
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

/// A message for the errors that writing in a directory commonly meets: disk full, quota, read-only, …
[[nodiscard]] tl::unexpected<Error> fail_writing(int error, const std::string& what,
                                                 const std::string& where);

}  // namespace vmmd::snapshot
