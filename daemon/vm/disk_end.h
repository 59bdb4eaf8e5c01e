#pragma once

#include <memory>
#include <utility>

#include "api/config_devices.h"
#include "daemon/vm/host_end.h"
#include "daemon/vm/rate_limits.h"
#include "devices/storage/disk.h"

namespace vmmd::vm {

/// The host's end of a disk: its image, open and locked from vm.create to vm.delete.
class DiskEnd final : public HostEnd {
 public:
  /// `config` passed validate(). `groups` are those of the disk's VM.
  static Result<std::unique_ptr<HostEnd>> open(const api::DiskConfig& config,
                                               std::shared_ptr<RateLimitGroups> groups);
  Result<std::unique_ptr<devices::VirtioDevice>> make_device(const DeviceGlue& glue) override;

 private:
  DiskEnd(api::DiskConfig config, std::shared_ptr<RateLimitGroups> groups,
          std::unique_ptr<devices::Disk> disk)
      : config_(std::move(config)), groups_(std::move(groups)), disk_(std::move(disk)) {}

  const api::DiskConfig config_;
  const std::shared_ptr<RateLimitGroups> groups_;
  const std::unique_ptr<devices::Disk> disk_;
};

}  // namespace vmmd::vm
