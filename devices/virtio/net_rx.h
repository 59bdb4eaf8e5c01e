#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "devices/rate_limiter.h"
#include "devices/virtio/net_link.h"
#include "devices/virtio/queue.h"

namespace vmmd::devices {

/// One receive queue. Frames go straight into the guest's buffers; so enough of those for the longest frame
/// are held ready (with MRG_RXBUF several chains), and given back when the queue stops. While there are not
/// enough of them the backend is not watched: what comes in waits on the host. On the device's loop.
class NetReceiver {
 public:
  NetReceiver(NetLink& link, unsigned pair, unsigned queue_index, std::uint16_t queue_size,
              std::shared_ptr<RateLimiter> limiter);
  NetReceiver(const NetReceiver&) = delete;
  NetReceiver& operator=(const NetReceiver&) = delete;

  void start(Queue& queue);
  /// The driver added buffers.
  void buffers_added() {
    if (starved_) run();
  }
  /// Receives what is there, as far as turn, rate limit and the guest's buffers let it.
  void run();
  /// Gives buffers back and does not touch the queue any more.
  void stop();
  /// The backend is gone.
  void stop_watching() { incoming_.reset(); }

 private:
  [[nodiscard]] bool hold_buffers();
  [[nodiscard]] bool hold_one();
  [[nodiscard]] bool buffers_ready();
  [[nodiscard]] NetIo receive(std::size_t& size);
  void deliver(std::size_t size);
  void watch();
  void flush();
  void give_up(const char* reason);
  [[nodiscard]] Chain& held(std::size_t i) { return held_[(first_ + i) % held_.size()]; }

  NetLink& link_;
  const unsigned pair_;
  const unsigned queue_index_;
  Queue* queue_ = nullptr;  // nullptr: stopped
  bool broken_ = false;     // the driver's fault; told
  bool starved_ = false;    // waits for buffers
  bool paid_ = false;       // the next frame has its token
  std::uint64_t owed_ = 0;  // bytes received since the last payment

  std::vector<Chain> held_;  // a ring of popped chains
  std::size_t first_ = 0;
  std::size_t count_ = 0;
  std::uint64_t capacity_ = 0;  // bytes of the held chains
  std::size_t segments_ = 0;    // of the held chains
  std::vector<iovec> buffers_;
  std::unique_ptr<FdWatch> incoming_;
  NetTurn turn_;
  RateLimited limit_;  // last: its callback runs run()
};

}  // namespace vmmd::devices
