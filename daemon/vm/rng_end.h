#pragma once

#include "api/config_devices.h"
#include "daemon/vm/host_end.h"
#include "devices/virtio/entropy_source.h"

namespace vmmd::vm {

/// The host's end of virtio-rng: its source, which goes on where it was when the guest reboots.
class RngEnd final : public HostEnd {
 public:
  static Result<std::unique_ptr<HostEnd>> open(const api::RngConfig& config);
  Result<std::unique_ptr<devices::VirtioDevice>> make_device(const DeviceGlue& glue) override;

 private:
  explicit RngEnd(devices::EntropySource source) : source_(std::move(source)) {}
  devices::EntropySource source_;
};

}  // namespace vmmd::vm
