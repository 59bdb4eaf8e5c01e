#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "api/config_pci.h"

namespace vmmd::api {

/// One file offered to firmware by fw_cfg: either `file` or `string`.
struct FwCfgItem {
  std::string name;
  std::optional<std::string> file;
  std::optional<std::string> string;

  bool operator==(const FwCfgItem&) const = default;
};

struct FwCfgItemList {
  std::vector<FwCfgItem> item_list;

  bool operator==(const FwCfgItemList&) const = default;
};

struct FwCfgConfig {
  bool e820 = true;
  bool kernel = true;
  bool cmdline = true;
  bool initramfs = true;
  bool acpi_tables = true;
  std::optional<FwCfgItemList> items;

  bool operator==(const FwCfgConfig&) const = default;
};

/// What the guest starts from.
struct PayloadConfig {
  std::optional<std::string> firmware;
  std::optional<std::string> kernel;
  std::optional<std::string> cmdline;
  std::optional<std::string> initramfs;
  std::optional<std::string> igvm;
  std::optional<std::string> host_data;
  std::optional<FwCfgConfig> fw_cfg_config;

  bool operator==(const PayloadConfig&) const = default;
};

struct PlatformConfig {
  std::uint16_t num_pci_segments = 1;
  std::vector<std::uint16_t> iommu_segments;
  std::uint8_t iommu_address_width_bits = 64;
  std::optional<std::string> system_serial_number;
  std::optional<std::string> serial_number;  // old name of system_serial_number
  std::optional<std::string> system_uuid;
  std::optional<std::string> uuid;  // old name of system_uuid
  std::vector<std::string> oem_strings;
  std::optional<std::string> system_manufacturer;
  std::optional<std::string> system_product_name;
  std::optional<std::string> system_version;
  std::optional<std::string> system_family;
  std::optional<std::string> system_sku_number;
  std::optional<std::string> chassis_asset_tag;
  bool tdx = false;
  bool sev_snp = false;
  bool iommufd = false;
  std::optional<std::int32_t> iommufd_fd;
  bool vfio_p2p_dma = true;
  /// Ours: the PC's old devices (8254 PIT, 8259 PICs, i8042 keyboard, …).
  bool pc = false;

  bool operator==(const PlatformConfig&) const = default;
};

struct NumaDistance {
  std::uint32_t destination = 0;
  std::uint8_t distance = 0;

  bool operator==(const NumaDistance&) const = default;
};

struct NumaConfig {
  std::uint32_t guest_numa_id = 0;
  std::vector<std::uint32_t> cpus;
  std::vector<NumaDistance> distances;
  std::vector<std::string> memory_zones;
  std::vector<std::uint16_t> pci_segments;
  std::optional<std::string> device_id;

  bool operator==(const NumaConfig&) const = default;
};

struct TpmConfig {
  std::string socket;

  bool operator==(const TpmConfig&) const = default;
};

/// virtio-rtc.
struct RtcConfig {
  PciDeviceConfig pci;

  bool operator==(const RtcConfig&) const = default;
};

struct LandlockConfig {
  std::string path;
  std::string access;  // "r", "w", "rw"

  bool operator==(const LandlockConfig&) const = default;
};

struct IvshmemConfig {
  std::string path;
  std::uint64_t size = 0;  // bytes
  PciDeviceConfig pci;

  bool operator==(const IvshmemConfig&) const = default;
};

}  // namespace vmmd::api
