#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "devices/rate_limiter.h"
#include "devices/virtio/net_link.h"
#include "devices/virtio/queue.h"

namespace vmmd::devices {

/// One transmit queue. On the device's loop.
class NetTransmitter {
 public:
  NetTransmitter(NetLink& link, unsigned pair, unsigned queue_index, std::shared_ptr<RateLimiter> limiter);
  NetTransmitter(const NetTransmitter&) = delete;
  NetTransmitter& operator=(const NetTransmitter&) = delete;

  void start(Queue& queue);
  /// Sends what is there, as far as turn, rate limit and backend let it.
  void run();
  /// Does not touch the queue any more.
  void stop();

 private:
  [[nodiscard]] bool send_chain();
  void flush();

  NetLink& link_;
  const unsigned pair_;
  const unsigned queue_index_;
  Queue* queue_ = nullptr;  // nullptr: stopped
  bool told_broken_ = false;
  bool paid_ = false;  // the next chain has its tokens
  Chain chain_;
  std::vector<iovec> buffers_;
  std::unique_ptr<FdWatch> room_;  // while the backend has none
  NetTurn turn_;
  RateLimited limit_;  // last: its callback runs run()
};

}  // namespace vmmd::devices
