#include "daemon/vm/console_end.h"

#include "devices/virtio/console.h"

namespace vmmd::vm {

Result<std::unique_ptr<devices::VirtioDevice>> ConsoleEnd::make_device(const DeviceGlue& glue) {
  return std::unique_ptr<devices::VirtioDevice>(
      std::make_unique<devices::VirtioConsole>(glue.shared_loop, backend_));
}

}  // namespace vmmd::vm
