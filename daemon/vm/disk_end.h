#pragma once

#include <memory>
#include <utility>

#include "api/config_devices.h"
#include "daemon/vm/device_table.h"
#include "daemon/vm/host_end.h"
#include "daemon/vm/rate_limits.h"
#include "devices/storage/overlay.h"

namespace vmmd::vm {

/// The host's end of a disk: its image, open and locked from vm.create to vm.delete.
class DiskEnd final : public HostEnd {
 public:
  /// `config` passed validate(). `groups` are those of the disk's VM. `snapshot_files`: of the snapshot that
  /// the VM comes from; nullptr for none. An overlay in memory takes its layer out.
  static Result<std::unique_ptr<HostEnd>> open(const api::DiskConfig& config,
                                               std::shared_ptr<RateLimitGroups> groups,
                                               SnapshotFiles* snapshot_files = nullptr);
  Result<std::unique_ptr<devices::VirtioDevice>> make_device(const DeviceGlue& glue) override;
  Status resize(std::uint64_t bytes) override;
  [[nodiscard]] std::optional<OwnLoop> own_loop() const override;
  [[nodiscard]] std::string snapshot_file() const override;
  [[nodiscard]] Status save_file(int fd, const std::stop_token& cancel) const override;

 private:
  DiskEnd(api::DiskConfig config, std::shared_ptr<RateLimitGroups> groups)
      : config_(std::move(config)), groups_(std::move(groups)) {}
  Status open_disk(SnapshotFiles* snapshot_files);
  [[nodiscard]] std::string layer_name() const;

  const api::DiskConfig config_;
  const std::shared_ptr<RateLimitGroups> groups_;
  std::unique_ptr<devices::Disk> disk_;
  const devices::Overlay* memory_ = nullptr;  // disk_, if its writes stay in memory
  std::uint64_t promised_ = 0;  // bytes that a guest may believe in: the most that it was told of
};

}  // namespace vmmd::vm
