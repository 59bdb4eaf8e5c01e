#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "api/config.h"

namespace vmmd::api {

/// A file of the host that a disk or persistent memory of the VM lies in.
struct DiskPath {
  std::string id;  // of the device; "<id>/overlay" for the file that keeps its writes
  std::string path;
  std::string role;  // "disk", "layer", "pmem"
  bool readonly = false;
  std::string pointer = {};  // JSON pointer of the field that names it
};

/// All of them, of the devices that have an id. Disks behind vhost-user have no file of ours.
[[nodiscard]] std::vector<DiskPath> disk_paths(const VmConfig& config);

/// Ids (as in DiskPath) of those whose path `overrides`, a JSON merge patch, names. Text that is no JSON
/// names none; restored_config() says what is wrong with it.
[[nodiscard]] std::set<std::string> overridden_disk_paths(std::string_view overrides);

}  // namespace vmmd::api
