#include "daemon/vm/watchdog_end.h"

#include "devices/virtio/watchdog.h"

namespace vmmd::vm {

Result<std::unique_ptr<devices::VirtioDevice>> WatchdogEnd::make_device(const DeviceGlue& glue) {
  return std::unique_ptr<devices::VirtioDevice>(
      std::make_unique<devices::VirtioWatchdog>(glue.loop, glue.clock, glue.power, glue.events));
}

}  // namespace vmmd::vm
