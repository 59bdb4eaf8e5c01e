#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "devices/bus.h"
#include "devices/pci/config_space.h"
#include "devices/pci/pci_device.h"
#include "devices/state_unit.h"

namespace vmmd::devices {

/// The root of the PCI bus: configuration mechanism #1 (ports 0xCF8 and 0xCFC) and ECAM, which agree, over
/// bus 0 with single-function devices; a host bridge is at 00:00.0. Where there is no function, reads are all
/// ones and writes are dropped.
///
/// Not emulated: other buses, multi-function devices, the 0xCF9 reset register. An access that is not
/// naturally aligned, or of 8 bytes, reads as all ones.
///
/// Locks: the root's, held during a configuration access, then the function's, then those of the buses it
/// moves its BARs on. So when remove_device() returns, no access to the device is running.
class PciRoot final : public StateUnit {
 public:
  static constexpr unsigned kSlots = 32;
  static constexpr std::uint64_t kPortsSize = 8;  // 0xCF8..0xCFF
  static constexpr Widths kPortsWidths = kWidth1 | kWidth2 | kWidth4;
  static constexpr std::uint64_t kEcamSize = 256ULL << 20;  // 256 buses of 1 MiB
  static constexpr Widths kEcamWidths = kWidth1 | kWidth2 | kWidth4;

  PciRoot();

  /// Puts function 0 of device `slot` (1..31) on bus 0. Conflict if the slot is taken (both names in the
  /// message), BadRequest if there is no such slot. The device must outlive its place here.
  Status add_device(unsigned slot, PciDevice* device);
  /// NotFound if the slot is empty.
  Status remove_device(unsigned slot);
  /// The lowest free slot; Conflict if all are taken.
  [[nodiscard]] Result<unsigned> free_slot() const;

  /// Ports 0xCF8..0xCFF.
  [[nodiscard]] BusDevice& ports() { return ports_; }
  /// The ECAM window of all 256 buses.
  [[nodiscard]] BusDevice& ecam() { return ecam_; }

  [[nodiscard]] std::string_view unit_name() const override { return "pci"; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override;

 private:
  class Ports final : public BusDevice {
   public:
    explicit Ports(PciRoot& root) : root_(root) {}
    std::uint64_t read(std::uint64_t offset, unsigned width) override;
    void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

   private:
    PciRoot& root_;
  };
  class Ecam final : public BusDevice {
   public:
    explicit Ecam(PciRoot& root) : root_(root) {}
    std::uint64_t read(std::uint64_t offset, unsigned width) override;
    void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

   private:
    PciRoot& root_;
  };
  class HostBridge final : public PciDevice {
   public:
    HostBridge();
    [[nodiscard]] std::string_view pci_name() const override { return "host-bridge"; }
    [[nodiscard]] std::uint32_t read_config(unsigned offset, unsigned width) override;
    void write_config(unsigned offset, unsigned width, std::uint32_t value) override;
    ConfigSpace space;  // under the root's lock
  };
  struct State {
    std::uint32_t address = 0;  // CONFIG_ADDRESS
  };
  /// Both mechanisms end here. `location` as an ECAM offset: bus, device, function, register.
  [[nodiscard]] std::uint32_t read_config(std::uint64_t location, unsigned width);
  void write_config(std::uint64_t location, unsigned width, std::uint32_t value);
  [[nodiscard]] PciDevice* find(std::uint64_t location) const;

  Ports ports_{*this};
  Ecam ecam_{*this};
  mutable std::mutex mutex_;
  HostBridge host_bridge_;
  std::array<PciDevice*, kSlots> slots_{};
  State state_;
};

}  // namespace vmmd::devices
