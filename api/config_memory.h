#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace vmmd::api {

enum class HotplugMethod : std::uint8_t { Acpi, VirtioMem };

/// A part of RAM with a backing of its own. All sizes are bytes.
struct MemoryZoneConfig {
  std::string id;
  std::uint64_t size = 0;
  std::optional<std::string> file;
  bool mergeable = false;
  bool shared = false;
  bool hugepages = false;
  std::optional<std::uint64_t> hugepage_size;
  std::optional<std::uint32_t> host_numa_node;
  std::optional<std::uint64_t> hotplug_size;
  std::optional<std::uint64_t> hotplugged_size;
  bool prefault = false;
  bool reserve = false;

  bool operator==(const MemoryZoneConfig&) const = default;
};

/// Guest RAM. All sizes are bytes.
struct MemoryConfig {
  std::uint64_t size = 512ULL << 20;
  std::optional<std::uint64_t> hotplug_size;
  std::optional<std::uint64_t> hotplugged_size;
  bool mergeable = false;
  HotplugMethod hotplug_method = HotplugMethod::Acpi;
  bool shared = false;
  bool hugepages = false;
  std::optional<std::uint64_t> hugepage_size;
  bool prefault = false;
  bool reserve = false;
  bool thp = true;
  std::vector<MemoryZoneConfig> zones;
  /// Ours: RAM lives in this file (OpenVMM's --memory-backing-file). Created when absent, never truncated.
  std::optional<std::string> file;

  bool operator==(const MemoryConfig&) const = default;
};

}  // namespace vmmd::api
