#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "devices/bus.h"
#include "devices/pci/config_space.h"

namespace vmmd::devices {

/// Addresses that BARs may have: what the root's _CRS tells the guest.
struct PciWindow {
  std::uint64_t base = 0;
  std::uint64_t size = 0;  // bytes
};

/// The 64-bit memory BARs of one function (PCI Local Bus 3.0, 6.2.5.1): sizing, and a place on the bus that
/// follows what the guest writes. A BAR is mapped while memory decoding is on and it lies at an address that
/// is not zero, in one of the windows, where nobody else is; a BAR that conflicts is tried again with each
/// update(). Not locked: it is the function's, as its configuration space is.
class Bars {
 public:
  static constexpr unsigned kRegisters = 6;
  /// BAR `index` is at `address` now, or nowhere. No access through its old place starts after this.
  using Moved = std::function<void(unsigned index, std::optional<std::uint64_t> address)>;

  /// `space` and `bus` outlive this. `name` is the function's, for the bus.
  Bars(std::string name, ConfigSpace& space, Bus& bus, std::vector<PciWindow> windows, Moved moved = {});
  /// Takes all BARs off the bus; `moved` is not called.
  ~Bars();
  Bars(const Bars&) = delete;
  Bars& operator=(const Bars&) = delete;

  /// Makes registers `index` (0, 2 or 4) and the next a BAR of `size` bytes, a power of two from 16 on, at
  /// `address` (0: the guest finds a place). Before the guest runs.
  void add(unsigned index, std::uint64_t size, BusDevice& device, std::uint64_t address = 0);

  /// After each change of the configuration space: moves what the guest moved.
  void update();
  [[nodiscard]] std::optional<std::uint64_t> address(unsigned index) const { return bars_.at(index).mapped; }

 private:
  struct Bar {
    std::uint64_t size = 0;  // 0: none
    BusDevice* device = nullptr;
    std::optional<std::uint64_t> mapped;
  };
  [[nodiscard]] std::optional<std::uint64_t> wanted(unsigned index) const;

  const std::string name_;
  ConfigSpace& space_;
  Bus& bus_;
  const std::vector<PciWindow> windows_;
  const Moved moved_;
  std::array<Bar, kRegisters> bars_{};
};

}  // namespace vmmd::devices
