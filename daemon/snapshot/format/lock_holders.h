#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace vmmd::snapshot {

struct LockHolder {
  pid_t pid = 0;
  bool exclusive = false;
};

/// Who holds a flock(2) on the file behind `fd`, by /proc/locks: asking by trying would be the lock that
/// somebody else is refused for. Processes of other PID namespaces are not seen.
[[nodiscard]] std::vector<LockHolder> flock_holders(int fd);

/// " (pid 12, 13)" for a message; empty for none.
[[nodiscard]] std::string pids_text(const std::vector<LockHolder>& holders);

}  // namespace vmmd::snapshot
