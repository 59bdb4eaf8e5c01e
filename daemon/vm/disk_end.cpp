#include "daemon/vm/disk_end.h"

#include "api/disk_source.h"
#include "devices/storage/overlay.h"
#include "devices/storage/raw_file.h"
#include "devices/virtio/block.h"

namespace vmmd::vm {

Result<std::unique_ptr<HostEnd>> DiskEnd::open(const api::DiskConfig& config,
                                               std::shared_ptr<RateLimitGroups> groups,
                                               SnapshotFiles* snapshot_files) {
  std::unique_ptr<DiskEnd> end(new DiskEnd(config, std::move(groups)));
  if (auto opened = end->open_disk(snapshot_files); !opened)
    return wrap(std::move(opened).error(), "cannot open disk \"{}\"", config.pci.id.value_or(""));
  return std::unique_ptr<HostEnd>(std::move(end));
}

Status DiskEnd::open_disk(SnapshotFiles* snapshot_files) {
  const api::DiskSource source = api::disk_source(config_);
  VMMD_ASSIGN(std::unique_ptr<devices::Disk> image,
              devices::RawFile::open(source.path, {.readonly = !source.writes_image(config_.readonly),
                                                   .direct = config_.direct}));
  if (source.overlay_file) {
    VMMD_ASSIGN(disk_, devices::Overlay::in_file(std::move(image), *source.overlay_file));
    return {};
  }
  if (!source.memory_overlay) {
    disk_ = std::move(image);
    return {};
  }
  std::unique_ptr<devices::FrozenLayer> lower;
  if (snapshot_files != nullptr) {
    auto file = snapshot_files->extract(layer_name());
    if (file.empty()) {
      return fail(ErrorCode::BadRequest,
                  "the snapshot has no {}: the disk had no overlay = memory when it was taken", layer_name());
    }
    VMMD_ASSIGN(const std::uint64_t size, image->size());
    VMMD_ASSIGN(lower, devices::FrozenLayer::open(std::move(file.mapped()), layer_name(), size));
  }
  VMMD_ASSIGN(auto overlay,
              devices::Overlay::in_memory(std::move(image), std::move(lower), config_.overlay_limit));
  memory_ = overlay.get();
  disk_ = std::move(overlay);
  return {};
}

Status DiskEnd::resize(std::uint64_t bytes) {
  constexpr std::uint64_t kSector = 512;
  if (bytes == 0 || bytes % kSector != 0) {
    return fail(ErrorCode::BadRequest, "a disk of {} bytes: not a multiple of {}", bytes, kSector);
  }
  VMMD_ASSIGN(const std::uint64_t size, disk_->size());
  if (bytes < size) {
    return fail(
        ErrorCode::BadRequest,
        "{} has {} bytes; with fewer the guest would lose what lies behind, so no disk is made smaller",
        disk_->name(), size);
  }
  if (bytes < promised_) {
    return fail(
        ErrorCode::BadRequest,
        "{} was cut to {} bytes, and the guest believes in {}: give that size to make it as long again "
        "(what was cut off is lost), or reboot the guest to let it see a smaller disk",
        disk_->name(), size, promised_);
  }
  if (bytes > size) VMMD_TRY(disk_->grow(bytes));
  if (promised_ != 0) promised_ = bytes;
  return {};
}

// One thread serves all queues, so it may run wherever one of them may.
std::optional<OwnLoop> DiskEnd::own_loop() const {
  if (config_.queue_affinity.empty() && !disk_->holds_up_loop()) return std::nullopt;
  OwnLoop own;
  for (const api::VirtQueueAffinity& queue : config_.queue_affinity)
    own.cpus.insert(own.cpus.end(), queue.host_cpus.begin(), queue.host_cpus.end());
  return own;
}

std::string DiskEnd::layer_name() const {
  return "disk-" + config_.pci.id.value_or("") + ".bin";
}

std::string DiskEnd::snapshot_file() const {
  return memory_ != nullptr ? layer_name() : std::string();
}

Status DiskEnd::save_file(int fd, const std::stop_token& cancel) const {
  return memory_->save(fd, layer_name(), cancel);
}

Result<std::unique_ptr<devices::VirtioDevice>> DiskEnd::make_device(const DeviceGlue& glue) {
  VMMD_ASSIGN(const std::uint64_t size, disk_->size());
  promised_ = size;
  devices::VirtioBlock::Config config;
  config.id = config_.pci.id.value_or("");
  config.serial = config_.serial.value_or("");
  config.queues = config_.num_queues;
  config.queue_size = config_.queue_size;
  config.discard = config_.sparse;
  config.wait_when_full = config_.on_enospc == api::EnospcAction::Pause;
  auto limiter = config_.rate_limit_group ? groups_->limiter(*config_.rate_limit_group, glue.clock)
                                          : make_limiter(config_.rate_limiter_config, glue.clock);
  return std::unique_ptr<devices::VirtioDevice>(std::make_unique<devices::VirtioBlock>(
      std::move(config), *disk_, size, glue.loop, std::move(limiter), glue.events));
}

}  // namespace vmmd::vm
