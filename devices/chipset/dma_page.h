#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "devices/bus.h"
#include "devices/state_unit.h"

namespace vmmd::devices {

/// The page registers of the PC's DMA controllers, ports 0x81 to 0x8f, as bytes that hold what was written:
/// firmware tests them and keeps notes there. Port 0x80 is the POST code's. The 8237s themselves are not
/// there and no device asks for DMA.
class DmaPage final : public BusDevice, public StateUnit {
 public:
  static constexpr std::uint64_t kSize = 15;
  static constexpr Widths kWidths = kWidth1;

  std::uint64_t read(std::uint64_t offset, unsigned width) override;
  void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

  [[nodiscard]] std::string_view unit_name() const override { return "dma-page"; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override;

 private:
  struct State {
    std::array<std::uint8_t, kSize> pages{};
  };
  mutable std::mutex mutex_;
  State state_;
};

}  // namespace vmmd::devices
