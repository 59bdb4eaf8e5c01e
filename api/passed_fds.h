#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <vector>

#include "base/unique_fd.h"

namespace vmmd::api {

/// What comes with a request by SCM_RIGHTS, in the order in which it was sent.
using PassedFds = std::vector<UniqueFd>;

/// The most with one request: SCM_MAX_FD of Linux, what one message can carry.
inline constexpr std::size_t kMaxPassedFds = 253;

struct Received {
  ssize_t size = -1;      // as recv(2): 0 at the end, -1 with errno
  bool fds_lost = false;  // some that were sent could not be opened here: RLIMIT_NOFILE
};

/// recv(2) without waiting. Descriptors that come along are added to `fds`, close-on-exec. A message's
/// descriptors come with its first bytes, and no bytes of a message behind it do.
[[nodiscard]] Received receive_with_fds(int socket, std::span<std::byte> out, PassedFds& fds);

/// send(2) of bytes, at least one, and of descriptors with the first of them; they stay open here. -1 with
/// errno.
[[nodiscard]] ssize_t send_with_fds(int socket, std::span<const std::byte> bytes,
                                    std::span<const UniqueFd> fds);

}  // namespace vmmd::api
