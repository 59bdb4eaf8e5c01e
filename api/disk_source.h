#pragma once

#include <optional>
#include <string>

#include "api/config_devices.h"

namespace vmmd::api {

/// What a disk is made of on the host: OpenVMM's `memdiff:FILE` and our `overlay` are two ways to say one
/// thing.
struct DiskSource {
  std::string path;                         // of the image or block device
  bool memory_overlay = false;              // writes stay in memory, the image unchanged
  std::optional<std::string> overlay_file;  // writes stay in this file, the image unchanged

  [[nodiscard]] bool writes_image(bool readonly) const {
    return !readonly && !memory_overlay && !overlay_file;
  }
};

[[nodiscard]] DiskSource disk_source(const DiskConfig& disk);

}  // namespace vmmd::api
