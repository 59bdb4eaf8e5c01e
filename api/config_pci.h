#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace vmmd::api {

/// What every PCI device's object carries; in JSON these are members of the device itself.
struct PciDeviceConfig {
  /// Unique over all devices. A leading "__" is reserved for built-in ones.
  std::optional<std::string> id;
  bool iommu = false;
  std::uint16_t pci_segment = 0;
  std::optional<std::uint8_t> pci_device_id;

  bool operator==(const PciDeviceConfig&) const = default;
};

struct PciSegmentConfig {
  std::uint16_t pci_segment = 0;
  std::uint32_t mmio32_aperture_weight = 1;
  std::uint32_t mmio64_aperture_weight = 1;

  bool operator==(const PciSegmentConfig&) const = default;
};

}  // namespace vmmd::api
