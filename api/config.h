#pragma once

#include <optional>
#include <vector>

#include "api/config_console.h"
#include "api/config_cpus.h"
#include "api/config_devices.h"
#include "api/config_memory.h"
#include "api/config_pci.h"
#include "api/config_platform.h"

namespace vmmd::api {

/// A whole VM: Cloud Hypervisor's VmConfig, with its names and defaults, and a few fields of ours (marked
/// so). A default-constructed one is what an empty object would mean; only `payload` has no useful default.
struct VmConfig {
  CpusConfig cpus;
  MemoryConfig memory;
  PayloadConfig payload;
  std::vector<RateLimitGroupConfig> rate_limit_groups;
  std::vector<DiskConfig> disks;
  std::vector<NetConfig> net;
  RngConfig rng;
  std::optional<BalloonConfig> balloon;
  std::vector<FsConfig> fs;
  std::vector<GenericVhostUserConfig> generic_vhost_user;
  std::vector<PmemConfig> pmem;
  SerialConfig serial;
  ConsoleConfig console;
  DebugConsoleConfig debug_console;
  std::vector<DeviceConfig> devices;
  std::vector<UserDeviceConfig> user_devices;
  std::vector<VdpaConfig> vdpa;
  std::optional<VsockConfig> vsock;
  std::vector<NumaConfig> numa;
  bool iommu = false;
  bool watchdog = false;
  std::optional<RtcConfig> rtc;
  bool pvpanic = false;
  std::vector<PciSegmentConfig> pci_segments;
  PlatformConfig platform;
  std::optional<TpmConfig> tpm;
  bool landlock_enable = false;
  std::vector<LandlockConfig> landlock_rules;
  bool gdb = false;
  std::optional<IvshmemConfig> ivshmem;

  bool operator==(const VmConfig&) const = default;
};

}  // namespace vmmd::api
