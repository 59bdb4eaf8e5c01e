#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "devices/device_events.h"
#include "devices/virtio/net_control.h"
#include "devices/virtio/net_rx.h"
#include "devices/virtio/net_tx.h"

namespace vmmd::devices {

/// A virtio network device (virtio 1.2, 5.1) over a NetBackend: queue pairs, control queue, checksum and
/// segmentation offloads, mergeable receive buffers, link state, announcement after a restore.
///
/// Not emulated: VLAN and MAC filters, promiscuous mode (the host's end gives what is for this guest), RSS,
/// a legacy header. The control queue comes after the pairs that the driver knows of (5.1.2): where it did
/// not take MQ, that is queue 2.
///
/// When the backend fails the link goes down: what the guest sends is dropped and counted, and the VM goes
/// on.
class NetDevice final : public VirtioDevice, private NetControlled {
 public:
  /// The transport has 64 queues at most.
  static constexpr unsigned kMaxPairs = 31;

  struct Config {
    std::string id;
    std::array<std::uint8_t, 6> mac{};
    std::optional<std::uint16_t> mtu;  // offered to the guest
    unsigned pairs = 1;                // at most the backend's
    std::uint16_t queue_size = 256;    // a power of two up to Queue::kMaxSize
    bool offload_csum = true;          // the other two need it (5.1.3.1)
    bool offload_tso = true;
    bool offload_ufo = true;  // UDP: UFO and USO
    std::shared_ptr<RateLimiter> rx_limiter;
    std::shared_ptr<RateLimiter> tx_limiter;
  };
  NetDevice(Config config, NetBackend& backend, EventLoop& loop, DeviceEvents& events);
  ~NetDevice() override;
  NetDevice(const NetDevice&) = delete;
  NetDevice& operator=(const NetDevice&) = delete;

  [[nodiscard]] VirtioType type() const override { return VirtioType::Net; }
  [[nodiscard]] EventLoop& loop() override { return link_.loop; }
  [[nodiscard]] std::uint64_t features() const override { return features_; }
  [[nodiscard]] std::vector<std::uint16_t> queue_sizes() const override;
  [[nodiscard]] std::uint64_t read_config(std::uint64_t offset, unsigned width) override;
  void start(const VirtioRun& run) override;
  void stop(std::function<void()> stopped) override;
  void notify(unsigned index) override;
  void stop_queue(unsigned index, std::function<void()> stopped) override;
  void start_queue(unsigned index) override;

  [[nodiscard]] std::string_view unit_name() const override { return unit_; }
  [[nodiscard]] Result<UnitState> save() const override;
  Status restore(const UnitState& state) override;
  /// The rate limits go on as they are: a guest must not fill its buckets by resetting its device.
  void reset() override;
  [[nodiscard]] std::map<std::string, std::int64_t> counters() const override;

 private:
  struct Pair;
  struct State {
    unsigned active_pairs = 1;
    std::optional<std::uint64_t> guest_offloads;  // as the driver set them; nothing: all it negotiated
    bool announce = false;                        // shown to the guest and not acknowledged
  };
  [[nodiscard]] bool set_active_pairs(unsigned pairs) override;
  [[nodiscard]] bool set_guest_offloads(std::uint64_t features) override;
  [[nodiscard]] bool acknowledge_announce() override;
  [[nodiscard]] unsigned control_index() const;
  void start_pair_queue(unsigned index);
  void announce();
  void send_rarp();
  void set_announce(bool on);
  void backend_failed();
  void check(const Status& status);
  void when_idle(std::function<void()> stopped);
  void turn_ended();

  const Config config_;
  const std::string unit_;
  DeviceEvents& events_;
  NetLink link_;
  const std::uint64_t features_;  // offered

  State state_;            // on the loop while it runs
  bool restored_ = false;  // announce at the next start()
  bool running_ = false;
  bool failed_ = false;
  VirtioRun run_;
  std::atomic<std::uint16_t> status_;  // as the guest reads it
  std::vector<std::function<void()>> idle_waiters_;
  std::vector<std::unique_ptr<Pair>> pairs_;
  NetControl control_;
};

}  // namespace vmmd::devices
