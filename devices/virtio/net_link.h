#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>

#include "devices/event_loop.h"
#include "devices/net_backend.h"
#include "devices/virtio/device.h"

namespace vmmd::devices {

/// Counted on the loop, read anywhere.
struct NetCounters {
  std::atomic<std::int64_t> rx_frames = 0;
  std::atomic<std::int64_t> rx_bytes = 0;
  std::atomic<std::int64_t> rx_dropped = 0;  // did not fit into the guest's buffers, or were odd
  std::atomic<std::int64_t> tx_frames = 0;
  std::atomic<std::int64_t> tx_bytes = 0;
  std::atomic<std::int64_t> tx_dropped = 0;  // malformed, refused by the host, or the host's end is gone
  std::atomic<std::int64_t> limited = 0;     // times a rate limit made a queue wait
  std::atomic<std::int64_t> backend_failures = 0;
  std::atomic<std::int64_t> control_commands = 0;
  std::atomic<std::int64_t> control_refused = 0;
};

/// What the queues of one network device share, on the device's loop.
struct NetLink {
  NetBackend& backend;
  EventLoop& loop;
  std::function<void()> failed;      // the backend said Failed; may be called again
  std::function<void()> turn_ended;  // one of the posted turns is over
  NetCounters counters;
  VirtioTransport* transport = nullptr;  // while the device runs
  bool merge_buffers = false;
  unsigned posted_turns = 0;  // on the loop and not yet run
};

/// Goes on with work that was cut off for the others' sake, after they had their turn on the loop.
class NetTurn {
 public:
  NetTurn(NetLink& link, std::function<void()> work) : link_(link), work_(std::move(work)) {}
  void request() {
    if (posted_) return;
    posted_ = true;
    ++link_.posted_turns;
    link_.loop.post([this] {
      posted_ = false;
      --link_.posted_turns;
      work_();
      link_.turn_ended();  // may end the device
    });
  }

 private:
  NetLink& link_;
  std::function<void()> work_;
  bool posted_ = false;
};

/// Frames that one queue moves before the others on the loop have their turn, and bytes.
inline constexpr unsigned kNetTurnFrames = 128;
inline constexpr std::uint64_t kNetTurnBytes = 512 << 10;
/// Frames after which a driver that polls sees them, so that it goes on while we do.
inline constexpr unsigned kNetPublishFrames = 8;

}  // namespace vmmd::devices
