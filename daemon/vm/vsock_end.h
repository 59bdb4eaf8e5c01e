#pragma once

#include "api/config_devices.h"
#include "base/unix_socket.h"
#include "daemon/vm/host_end.h"

namespace vmmd::vm {

/// The host's end of virtio-vsock: the socket that host programs connect to.
class VsockEnd final : public HostEnd {
 public:
  static Result<std::unique_ptr<HostEnd>> open(const api::VsockConfig& config);
  Result<std::unique_ptr<devices::VirtioDevice>> make_device(const DeviceGlue& glue) override;

 private:
  VsockEnd(std::uint32_t cid, std::unique_ptr<UnixListener> listener)
      : cid_(cid), listener_(std::move(listener)) {}
  const std::uint32_t cid_;
  const std::unique_ptr<UnixListener> listener_;
};

}  // namespace vmmd::vm
