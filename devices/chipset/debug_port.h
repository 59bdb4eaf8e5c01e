#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "devices/bus.h"
#include "devices/char_backend.h"
#include "devices/state_unit.h"

namespace vmmd::devices {

/// Port 0x80: firmware writes its progress there, Linux writes to it to pass a microsecond. One byte wide,
/// reads give the last value. Lock-free: guests write it often.
class PostCodePort final : public BusDevice, public StateUnit {
 public:
  static constexpr std::uint64_t kPort = 0x80;

  std::uint64_t read(std::uint64_t offset, unsigned width) override;
  void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

  [[nodiscard]] std::string_view unit_name() const override { return "post-code"; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override;
  [[nodiscard]] std::map<std::string, std::int64_t> counters() const override;

 private:
  std::atomic<std::uint8_t> last_ = 0;
  std::atomic<std::uint64_t> writes_ = 0;
};

/// The debug console of Bochs, QEMU and Cloud Hypervisor, usually at port 0xe9: bytes written go to the
/// backend, reads give 0xe9 so that a guest can tell it is there. It has no state to save. One byte wide.
class DebugConsole final : public BusDevice {
 public:
  static constexpr std::uint64_t kPort = 0xe9;

  /// `backend` outlives it.
  explicit DebugConsole(CharBackend& backend) : backend_(backend) {}

  std::uint64_t read(std::uint64_t offset, unsigned width) override;
  void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

 private:
  CharBackend& backend_;
};

}  // namespace vmmd::devices
