#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "devices/net_backend.h"

namespace vmmd::net {

/// A tap interface, one descriptor per queue pair, with the virtio header (IFF_VNET_HDR).
class TapBackend final : public devices::NetBackend {
 public:
  struct Config {
    /// Of an interface that is there or is made (and then goes with us); empty: "vmtap0", "vmtap1", …
    std::string name;
    unsigned pairs = 1;
    std::optional<unsigned> mtu;
    std::optional<std::array<std::uint8_t, 6>> mac;  // the host's side
    std::string ip;                                  // the host's side; empty: left alone
    std::string mask;
  };
  static Result<std::unique_ptr<TapBackend>> open(const Config& config);
  /// Takes open taps (/dev/net/tun after TUNSETIFF with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR; or macvtaps),
  /// one for each pair. They stay as they are otherwise: who opened them has set them up. `numbers` are what
  /// their owner calls them, for messages; -1: by no number.
  static Result<std::unique_ptr<TapBackend>> adopt(std::vector<UniqueFd> fds,
                                                   const std::vector<std::int32_t>& numbers);

  [[nodiscard]] std::string name() const override { return "tap \"" + name_ + "\""; }
  [[nodiscard]] const std::string& interface() const { return name_; }
  [[nodiscard]] unsigned pairs() const override { return static_cast<unsigned>(queues_.size()); }
  [[nodiscard]] std::uint64_t offloads() const override { return offloads_; }
  Status set_guest_offloads(std::uint64_t features) override;
  Status enable_pairs(unsigned active) override;
  [[nodiscard]] int fd(unsigned pair) const override {
    return failure_.empty() ? queues_[pair].fd.get() : -1;
  }
  devices::NetIo send(unsigned pair, std::span<const iovec> frame) override;
  devices::NetIo receive(unsigned pair, std::span<const iovec> buffers, std::size_t& size) override;
  [[nodiscard]] std::string failure() const override { return failure_; }

 private:
  struct Queue {
    UniqueFd fd;
    bool attached = true;
  };
  TapBackend() = default;
  Status add_queue(UniqueFd fd);
  void probe_offloads();
  devices::NetIo failed(const char* what, int error);

  std::string name_;
  std::vector<Queue> queues_;
  std::uint64_t offloads_ = 0;
  std::vector<iovec> buffers_;  // of receive()
  std::string failure_;
};

}  // namespace vmmd::net
