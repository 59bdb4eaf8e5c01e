#include "api/disk_source.h"

#include <string_view>

namespace vmmd::api {

DiskSource disk_source(const DiskConfig& disk) {
  constexpr std::string_view kMemdiff = "memdiff:";
  DiskSource source{disk.path.value_or(""), false, std::nullopt};
  if (source.path.starts_with(kMemdiff)) {
    source.path.erase(0, kMemdiff.size());
    source.memory_overlay = true;
  }
  if (disk.overlay == "memory") {
    source.memory_overlay = true;
  } else {
    source.overlay_file = disk.overlay;
  }
  return source;
}

}  // namespace vmmd::api
