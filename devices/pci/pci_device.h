#pragma once

#include <cstdint>
#include <string_view>

namespace vmmd::devices {

/// One PCI function as the root complex sees it. Called on vCPU threads, one access at a time (the root's
/// lock is held: a function never calls the root from here), but it locks against its own workers itself.
class PciDevice {
 public:
  virtual ~PciDevice() = default;

  /// For errors and vm.info: "host-bridge", "disk:root".
  [[nodiscard]] virtual std::string_view pci_name() const = 0;

  /// `offset` below 4096 (256 through the ports), `width` 1, 2 or 4, offset aligned to it.
  [[nodiscard]] virtual std::uint32_t read_config(unsigned offset, unsigned width) = 0;
  virtual void write_config(unsigned offset, unsigned width, std::uint32_t value) = 0;
};

}  // namespace vmmd::devices
