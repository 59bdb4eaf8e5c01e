#pragma once

#include <cstdint>

#include "devices/virtio/net_link.h"
#include "devices/virtio/queue.h"

namespace vmmd::devices {

/// What control commands change. Each answers whether the command is fine.
class NetControlled {
 public:
  virtual ~NetControlled() = default;
  [[nodiscard]] virtual bool set_active_pairs(unsigned pairs) = 0;
  /// GUEST_* feature bits that the driver wants on, of all that it could.
  [[nodiscard]] virtual bool set_guest_offloads(std::uint64_t features) = 0;
  [[nodiscard]] virtual bool acknowledge_announce() = 0;
};

/// The control queue (virtio 1.2, 5.1.6.5): MQ, GUEST_OFFLOADS and ANNOUNCE. Everything else is answered
/// with an error. On the device's loop.
class NetControl {
 public:
  NetControl(NetLink& link, NetControlled& controlled)
      : link_(link), controlled_(controlled), turn_(link, [this] { run(); }) {}

  void start(Queue& queue, unsigned queue_index);
  void run();
  void stop();

 private:
  [[nodiscard]] bool execute();
  void flush();

  NetLink& link_;
  NetControlled& controlled_;
  Queue* queue_ = nullptr;  // nullptr: stopped
  unsigned queue_index_ = 0;
  bool told_broken_ = false;
  Chain chain_;
  NetTurn turn_;
};

}  // namespace vmmd::devices
