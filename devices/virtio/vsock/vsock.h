#pragma once

#include <cstdint>

#include "devices/virtio/simple_device.h"
#include "devices/virtio/vsock/muxer.h"

namespace vmmd::devices {

/// virtio-vsock (virtio 1.2, 5.10), streams only: queue 0 receives, queue 1 transmits, queue 2 carries
/// events. What is on the host's side is VsockMuxer's.
///
/// Connections do not survive a restore: their sockets are another process's. A restored device says so by
/// a TRANSPORT_RESET event, upon which the driver ends all its connections and reads the CID anew, so that
/// both path and CID may be others. Because a driver does that at its leisure, and to every connection it has
/// by then, nothing is sent to it until it has given the event's buffer back.
class VirtioVsock final : public SimpleDevice {
 public:
  static constexpr std::uint16_t kQueueSize = 256;
  static constexpr unsigned kReceive = 0;
  static constexpr unsigned kTransmit = 1;
  static constexpr unsigned kEvent = 2;
  static constexpr std::uint32_t kTransportReset = 0;  // event id

  /// What `host` names outlives the device.
  VirtioVsock(EventLoop& loop, std::uint64_t guest_cid, VsockMuxer::Host host);

  [[nodiscard]] VirtioType type() const override { return VirtioType::Vsock; }
  [[nodiscard]] std::uint64_t features() const override { return 0; }
  [[nodiscard]] std::vector<std::uint16_t> queue_sizes() const override {
    return {kQueueSize, kQueueSize, kQueueSize};
  }
  [[nodiscard]] std::uint64_t read_config(std::uint64_t offset, unsigned width) override;

  [[nodiscard]] std::string_view unit_name() const override { return "vsock"; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  void reset() override;
  [[nodiscard]] std::map<std::string, std::int64_t> counters() const override;

 private:
  /// How far the driver is with a reset of its connections.
  enum class Reset : std::uint8_t { None, Pending, Told };
  struct State {
    Reset reset = Reset::None;
    std::uint32_t next_port = VsockMuxer::kFirstPort;
  };

  std::optional<std::uint32_t> handle(unsigned index, const Chain& chain) override;
  void on_start() override;
  void on_stop() override;
  void after_turn(unsigned index) override;
  void ask_for_event_buffers();

  const std::uint64_t guest_cid_;
  State state_;
  bool asked_for_buffers_ = false;
  bool transmit_waits_ = false;  // RSTs have to go first
  Chain event_chain_;
  VsockMuxer muxer_;
};

}  // namespace vmmd::devices
