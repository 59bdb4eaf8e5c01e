#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "api/config_pci.h"

namespace vmmd::api {

/// `size` tokens, filled again in `refill_time` milliseconds; `one_time_burst` extra ones at the start.
struct TokenBucket {
  std::uint64_t size = 0;
  std::optional<std::uint64_t> one_time_burst;
  std::uint64_t refill_time = 0;

  bool operator==(const TokenBucket&) const = default;
};

struct RateLimiterConfig {
  std::optional<TokenBucket> bandwidth;  // bytes
  std::optional<TokenBucket> ops;        // requests

  bool operator==(const RateLimiterConfig&) const = default;
};

struct RateLimitGroupConfig {
  std::string id;
  RateLimiterConfig rate_limiter_config;

  bool operator==(const RateLimitGroupConfig&) const = default;
};

struct VirtQueueAffinity {
  std::uint16_t queue_index = 0;
  std::vector<unsigned> host_cpus;

  bool operator==(const VirtQueueAffinity&) const = default;
};

enum class ImageType : std::uint8_t { FixedVhd, Qcow2, Raw, Vhdx, Unknown };
enum class LockGranularity : std::uint8_t { ByteRange, Full };
/// What a write does that the host has no room for: fail in the guest, or wait with the VM paused.
enum class EnospcAction : std::uint8_t { Error, Pause };

struct DiskConfig {
  std::optional<std::string> path;  // or vhost_user and vhost_socket; "memdiff:FILE" as overlay = memory
  bool readonly = false;
  bool direct = false;
  std::uint16_t num_queues = 1;
  std::uint16_t queue_size = 128;
  bool vhost_user = false;
  std::optional<std::string> vhost_socket;
  std::optional<RateLimiterConfig> rate_limiter_config;
  std::optional<std::string> rate_limit_group;
  std::optional<std::string> serial;
  std::vector<VirtQueueAffinity> queue_affinity;
  bool backing_files = false;
  bool sparse = true;
  ImageType image_type = ImageType::Unknown;
  LockGranularity lock_granularity = LockGranularity::ByteRange;
  /// Ours: "memory" keeps writes in memory (and in snapshots), anything else is a sparse file that keeps
  /// them.
  std::optional<std::string> overlay;
  std::optional<std::uint64_t> overlay_limit;  // bytes that overlay = memory may hold; then the disk is full
  EnospcAction on_enospc = EnospcAction::Error;
  PciDeviceConfig pci;

  bool operator==(const DiskConfig&) const = default;
};

enum class VhostMode : std::uint8_t { Client, Server };

struct NetConfig {
  std::optional<std::string> tap;
  std::optional<std::string> ip;
  std::optional<std::string> mask;
  std::optional<std::string> mac;
  std::optional<std::string> host_mac;
  std::optional<std::uint16_t> mtu;
  std::uint16_t num_queues = 2;  // one pair
  std::uint16_t queue_size = 256;
  bool vhost_user = false;
  std::optional<std::string> vhost_socket;
  VhostMode vhost_mode = VhostMode::Client;
  /// One for each queue pair of a tap that is passed open: how its owner calls the descriptor, never one of
  /// this process by that number. See net_fds.h.
  std::vector<std::int32_t> fds;
  /// Ours: the Unix socket of a running passt, instead of a tap.
  std::optional<std::string> passt;
  std::optional<RateLimiterConfig> rate_limiter_config;
  bool offload_tso = true;
  bool offload_ufo = true;
  bool offload_csum = true;
  PciDeviceConfig pci;

  bool operator==(const NetConfig&) const = default;
};

struct RngConfig {
  std::string src = "/dev/urandom";
  PciDeviceConfig pci;

  bool operator==(const RngConfig&) const = default;
};

struct BalloonConfig {
  std::uint64_t size = 0;  // bytes
  bool deflate_on_oom = false;
  bool free_page_reporting = false;
  PciDeviceConfig pci;

  bool operator==(const BalloonConfig&) const = default;
};

struct FsConfig {
  std::string tag;
  std::string socket;
  std::uint16_t num_queues = 1;
  std::uint16_t queue_size = 1024;
  PciDeviceConfig pci;

  bool operator==(const FsConfig&) const = default;
};

struct GenericVhostUserConfig {
  std::string socket;
  std::vector<std::uint16_t> queue_sizes;
  std::uint32_t device_type = 0;
  PciDeviceConfig pci;

  bool operator==(const GenericVhostUserConfig&) const = default;
};

struct PmemConfig {
  std::string file;
  std::optional<std::uint64_t> size;  // bytes
  bool discard_writes = false;
  PciDeviceConfig pci;

  bool operator==(const PmemConfig&) const = default;
};

struct VsockConfig {
  std::uint32_t cid = 3;
  std::string socket;
  PciDeviceConfig pci;

  bool operator==(const VsockConfig&) const = default;
};

struct VdpaConfig {
  std::string path;
  std::uint16_t num_queues = 1;
  PciDeviceConfig pci;

  bool operator==(const VdpaConfig&) const = default;
};

/// A VFIO device.
struct DeviceConfig {
  std::optional<std::string> path;
  std::optional<std::uint8_t> x_nv_gpudirect_clique;
  std::vector<std::uint64_t> x_exclude_mmap_bars;
  PciDeviceConfig pci;

  bool operator==(const DeviceConfig&) const = default;
};

/// A vfio-user device.
struct UserDeviceConfig {
  std::string socket;
  PciDeviceConfig pci;

  bool operator==(const UserDeviceConfig&) const = default;
};

}  // namespace vmmd::api
