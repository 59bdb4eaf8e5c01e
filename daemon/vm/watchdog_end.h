#pragma once

#include "daemon/vm/host_end.h"

namespace vmmd::vm {

/// A watchdog holds nothing on the host and has no options.
class WatchdogEnd final : public HostEnd {
 public:
  Result<std::unique_ptr<devices::VirtioDevice>> make_device(const DeviceGlue& glue) override;
};

}  // namespace vmmd::vm
