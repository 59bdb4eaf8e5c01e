#pragma once

#include <atomic>
#include <cstdint>

#include "devices/char_backend.h"
#include "devices/virtio/simple_device.h"

namespace vmmd::devices {

/// virtio-console (virtio 1.2, 5.3) with one port: hvc0. Queue 0 receives, queue 1 transmits. F_SIZE: the
/// size of the host's terminal, where it has one.
///
/// Output goes to the backend's bounded queue and never waits; what a chain holds beyond kMaxChain bytes is
/// dropped and counted. Input is taken only into buffers that the driver has put up, the rest waits in the
/// backend: nothing is kept here, so a snapshot loses nothing that was taken. Not emulated: MULTIPORT,
/// EMERG_WRITE.
class VirtioConsole final : public SimpleDevice, private CharReceiver {
 public:
  static constexpr std::uint16_t kQueueSize = 256;
  static constexpr unsigned kReceive = 0;
  static constexpr unsigned kTransmit = 1;
  static constexpr std::uint64_t kFeatureSize = 1U << 0;
  static constexpr std::uint32_t kMaxChain = 1U << 20;  // bytes

  /// `backend` outlives the device and calls it on `loop`.
  VirtioConsole(EventLoop& loop, CharBackend& backend);
  ~VirtioConsole() override;

  [[nodiscard]] VirtioType type() const override { return VirtioType::Console; }
  [[nodiscard]] std::uint64_t features() const override { return kFeatureSize; }
  [[nodiscard]] std::vector<std::uint16_t> queue_sizes() const override { return {kQueueSize, kQueueSize}; }
  [[nodiscard]] std::uint64_t read_config(std::uint64_t offset, unsigned width) override;

  [[nodiscard]] std::string_view unit_name() const override { return "console"; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override;
  [[nodiscard]] std::map<std::string, std::int64_t> counters() const override;

 private:
  struct State {
    CharSize size;  // what the guest was told
  };

  std::optional<std::uint32_t> handle(unsigned index, const Chain& chain) override;
  void on_start() override;
  std::size_t receive(std::span<const std::byte> data) override;
  void resized() override;
  /// Follows the backend's size, if it has one.
  void follow_size();

  CharBackend& backend_;
  std::atomic<State> state_;  // read on vCPU threads
  Chain received_;
  std::atomic<std::int64_t> rx_bytes_ = 0;
  std::atomic<std::int64_t> tx_bytes_ = 0;
  std::atomic<std::int64_t> tx_refused_ = 0;
};

}  // namespace vmmd::devices
