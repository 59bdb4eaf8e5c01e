#include "daemon/vm/vsock_end.h"

#include <sys/resource.h>

#include <algorithm>
#include <utility>

#include "devices/virtio/vsock/vsock.h"

namespace vmmd::vm {

namespace {
constexpr int kBacklog = 128;

/// Two descriptors for a connection at most: so the guest's connections never take more than half of what
/// this process may have, and the API's still find some.
std::size_t max_connections() {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) limit.rlim_cur = 1024;
  return std::min<std::size_t>(limit.rlim_cur / 4, devices::VsockMuxer::kMaxConnections);
}

}  // namespace

Result<std::unique_ptr<HostEnd>> VsockEnd::open(const api::VsockConfig& config) {
  auto listener = UnixListener::open(config.socket, kBacklog);
  if (!listener) return wrap(std::move(listener).error(), "cannot open the host's end of vsock");
  return std::unique_ptr<HostEnd>(new VsockEnd(config.cid, std::move(*listener)));
}

Result<std::unique_ptr<devices::VirtioDevice>> VsockEnd::make_device(const DeviceGlue& glue) {
  return std::unique_ptr<devices::VirtioDevice>(std::make_unique<devices::VirtioVsock>(
      glue.loop, cid_, devices::VsockMuxer::Host{listener_->fd(), listener_->path(), max_connections()}));
}

}  // namespace vmmd::vm
