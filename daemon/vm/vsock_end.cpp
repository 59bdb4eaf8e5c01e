#include "daemon/vm/vsock_end.h"

#include <utility>

#include "devices/virtio/vsock/vsock.h"

namespace vmmd::vm {

namespace {
constexpr int kBacklog = 128;
}

Result<std::unique_ptr<HostEnd>> VsockEnd::open(const api::VsockConfig& config) {
  auto listener = UnixListener::open(config.socket, kBacklog);
  if (!listener) return wrap(std::move(listener).error(), "cannot open the host's end of vsock");
  return std::unique_ptr<HostEnd>(new VsockEnd(config.cid, std::move(*listener)));
}

Result<std::unique_ptr<devices::VirtioDevice>> VsockEnd::make_device(const DeviceGlue& glue) {
  return std::unique_ptr<devices::VirtioDevice>(std::make_unique<devices::VirtioVsock>(
      glue.shared_loop, cid_, devices::VsockMuxer::Host{listener_->fd(), listener_->path()}));
}

}  // namespace vmmd::vm
