#pragma once

#include "daemon/vm/host_end.h"
#include "devices/char_backend.h"

namespace vmmd::vm {

/// The host's end of virtio-console is a character backend, which HostSide keeps beside the serial port's.
class ConsoleEnd final : public HostEnd {
 public:
  /// `backend` works on the loop that the device is given, and outlives this.
  explicit ConsoleEnd(devices::CharBackend& backend) : backend_(backend) {}
  Result<std::unique_ptr<devices::VirtioDevice>> make_device(const DeviceGlue& glue) override;

 private:
  devices::CharBackend& backend_;
};

}  // namespace vmmd::vm
