#include "daemon/vm/disk_end.h"

#include "api/disk_source.h"
#include "devices/storage/overlay.h"
#include "devices/storage/raw_file.h"
#include "devices/virtio/block.h"

namespace vmmd::vm {

namespace {

using DiskPointer = std::unique_ptr<devices::Disk>;

Result<DiskPointer> open_disk(const api::DiskConfig& config) {
  const api::DiskSource source = api::disk_source(config);
  VMMD_ASSIGN(auto image,
              devices::RawFile::open(source.path, {.readonly = !source.writes_image(config.readonly)}));
  if (source.overlay_file) {
    VMMD_ASSIGN(auto overlay, devices::Overlay::in_file(std::move(image), *source.overlay_file));
    return DiskPointer(std::move(overlay));
  }
  return DiskPointer(std::move(image));
}

}  // namespace

Result<std::unique_ptr<HostEnd>> DiskEnd::open(const api::DiskConfig& config,
                                               std::shared_ptr<RateLimitGroups> groups) {
  auto disk = open_disk(config);
  if (!disk) return wrap(std::move(disk).error(), "cannot open disk \"{}\"", config.pci.id.value_or(""));
  return std::unique_ptr<HostEnd>(new DiskEnd(config, std::move(groups), std::move(*disk)));
}

Result<std::unique_ptr<devices::VirtioDevice>> DiskEnd::make_device(const DeviceGlue& glue) {
  VMMD_ASSIGN(const std::uint64_t size, disk_->size());
  devices::VirtioBlock::Config config;
  config.id = config_.pci.id.value_or("");
  config.serial = config_.serial.value_or("");
  config.queues = config_.num_queues;
  config.queue_size = config_.queue_size;
  config.discard = config_.sparse;
  auto limiter = config_.rate_limit_group ? groups_->limiter(*config_.rate_limit_group, glue.clock)
                                          : make_limiter(config_.rate_limiter_config, glue.clock);
  return std::unique_ptr<devices::VirtioDevice>(std::make_unique<devices::VirtioBlock>(
      std::move(config), *disk_, size, glue.shared_loop, std::move(limiter), glue.events));
}

}  // namespace vmmd::vm
