#pragma once

#include "api/config_devices.h"
#include "daemon/vm/host_end.h"

namespace vmmd::vm {

/// A balloon holds nothing on the host: only its options.
class BalloonEnd final : public HostEnd {
 public:
  explicit BalloonEnd(const api::BalloonConfig& config) : config_(config) {}
  Result<std::unique_ptr<devices::VirtioDevice>> make_device(const DeviceGlue& glue) override;

 private:
  const api::BalloonConfig config_;
};

}  // namespace vmmd::vm
