#include "daemon/vm/balloon_end.h"

#include "devices/virtio/balloon.h"

namespace vmmd::vm {

Result<std::unique_ptr<devices::VirtioDevice>> BalloonEnd::make_device(const DeviceGlue& glue) {
  const devices::VirtioBalloon::Config config{.ram_size = glue.memory.total_size(),
                                              .size = config_.size,
                                              .deflate_on_oom = config_.deflate_on_oom,
                                              .free_page_reporting = config_.free_page_reporting};
  return std::unique_ptr<devices::VirtioDevice>(
      std::make_unique<devices::VirtioBalloon>(config, glue.loop, glue.reclaim, glue.events));
}

}  // namespace vmmd::vm
