#include "remote/appearance.h"

#include <poll.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/unique_fd.h"

namespace vmmd::remote {

namespace {

/// Nothing there, or a socket that nobody has bound or listens at yet.
bool is_absent(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) return false;
  path.copy(address.sun_path, path.size());
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return probe && ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
         (errno == ENOENT || errno == ECONNREFUSED);
}

}  // namespace

Status wait_for_socket(const std::string& path, int stop_fd) {
  if (!is_absent(path)) return {};
  const auto parent = std::filesystem::path(path).parent_path();
  const std::string folder = parent.empty() ? "." : parent.native();
  const UniqueFd changes(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!changes) return fail_errno(ErrorCode::Internal, errno, "cannot watch {}", folder);
  // vmmd moves its socket there when it listens.
  if (::inotify_add_watch(changes.get(), folder.c_str(), IN_CREATE | IN_MOVED_TO | IN_ONLYDIR) < 0) {
    return fail_errno(ErrorCode::NotFound, errno, "cannot wait for a socket in {}", folder);
  }
  while (is_absent(path)) {
    pollfd entries[] = {{changes.get(), POLLIN, 0}, {stop_fd, POLLIN, 0}};  // poll skips -1
    if (::poll(entries, 2, -1) < 0 && errno != EINTR) {
      return fail_errno(ErrorCode::Internal, errno, "cannot wait for {}", path);
    }
    if (entries[1].revents != 0)
      return fail(ErrorCode::NotFound, "nobody listens at {}: is vmmd running?", path);
    alignas(inotify_event) char events[4096];
    while (::read(changes.get(), events, sizeof events) > 0) {
    }
  }
  return {};
}

}  // namespace vmmd::remote
