#include "api/disk_paths.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/disk_source.h"
#include "api/json_reader.h"

namespace vmmd::api {

namespace {

// "overlay" belongs to the disk `id`, which the manifest tells from its base.
std::string overlay_id(const std::string& id) {
  return id + "/overlay";
}

}  // namespace

std::vector<DiskPath> disk_paths(const VmConfig& config) {
  std::vector<DiskPath> paths;
  for (std::size_t i = 0; i < config.disks.size(); ++i) {
    const DiskConfig& disk = config.disks[i];
    if (!disk.pci.id) continue;
    const DiskSource source = disk_source(disk);
    if (disk.path && !disk.vhost_user) {
      paths.push_back({*disk.pci.id, source.path, "disk", !source.writes_image(disk.readonly),
                       fmt::format("/disks/{}/path", i)});
    }
    if (source.overlay_file) {
      paths.push_back({overlay_id(*disk.pci.id), *source.overlay_file, "layer", disk.readonly,
                       fmt::format("/disks/{}/overlay", i)});
    }
  }
  for (std::size_t i = 0; i < config.pmem.size(); ++i) {
    const PmemConfig& pmem = config.pmem[i];
    if (pmem.pci.id)
      paths.push_back(
          {*pmem.pci.id, pmem.file, "pmem", pmem.discard_writes, fmt::format("/pmem/{}/file", i)});
  }
  return paths;
}

std::set<std::string> overridden_disk_paths(std::string_view overrides) {
  std::set<std::string> ids;
  if (overrides.empty()) return ids;
  const auto patch = JsonDocument::parse(overrides);
  if (!patch || !patch->root().is_object()) return ids;
  const auto collect = [&](const char* list, const char* field, auto name) {
    if (!patch->root().contains(list) || !patch->root()[list].is_array()) return;
    for (const auto& element : patch->root()[list]) {
      if (!element.is_object() || !element.contains(field) || !element.contains("id")) continue;
      if (element["id"].is_string()) ids.insert(name(element["id"].template get<std::string>()));
    }
  };
  const auto same = [](std::string id) { return id; };
  collect("disks", "path", same);
  collect("disks", "overlay", overlay_id);
  collect("pmem", "file", same);
  return ids;
}

}  // namespace vmmd::api
