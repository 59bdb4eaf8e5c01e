#pragma once

#include <bitset>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "devices/virtio/device.h"

namespace vmmd::devices {

/// What devices share that finish a chain in the turn of the loop in which they take it: no chain is ever in
/// flight between two turns, so stopping is immediate. A chain that must wait for its backend stays available
/// to the device, and is taken again when the device asks for another look.
///
/// A turn handles at most kBatch chains of one queue, fewer if they cost much, so that a guest that never
/// stops adding them cannot keep the loop from its other work.
class SimpleDevice : public VirtioDevice {
 public:
  static constexpr unsigned kBatch = 64;
  static constexpr unsigned kMaxQueues = 64;
  /// What a turn may cost, by what the device charges for it: a byte copied is 1.
  static constexpr std::uint64_t kTurn = 1 << 20;

  explicit SimpleDevice(EventLoop& loop) : loop_(loop) {}
  SimpleDevice(const SimpleDevice&) = delete;
  SimpleDevice& operator=(const SimpleDevice&) = delete;

  [[nodiscard]] EventLoop& loop() final { return loop_; }
  void start(const VirtioRun& run) final;
  void stop(std::function<void()> stopped) final;
  void notify(unsigned index) final { process(index); }
  void stop_queue(unsigned index, std::function<void()> stopped) final;
  void start_queue(unsigned index) final;

 protected:
  /// Does what `chain` of queue `index` asks for and returns how many bytes it wrote. Nothing: not now; the
  /// queue rests until process(index). Not all of it yet, because the turn is over: it comes again with the
  /// same chain in the next one.
  virtual std::optional<std::uint32_t> handle(unsigned index, const Chain& chain) = 0;
  /// The device runs; before its queues are looked at.
  virtual void on_start() {}
  /// A turn at queue `index` is over, and what it pushed is published.
  virtual void after_turn(unsigned index) { static_cast<void>(index); }
  /// For handle(): what it does for the chain has a cost, of kTurn.
  void charge(std::uint64_t cost) { turn_cost_ += cost; }
  [[nodiscard]] bool turn_is_over() const { return turn_cost_ >= kTurn; }
  /// The driver stops one queue: what it sent there and was not handled is forgotten.
  virtual void on_stop_queue(unsigned index) { static_cast<void>(index); }
  /// Queues and transport are not to be used any more.
  virtual void on_stop() {}

  /// Looks at a queue: on a notification, or because what its first chain waited for is there.
  void process(unsigned index);
  /// The same in a later turn of the loop.
  void process_later(unsigned index);
  [[nodiscard]] bool running() const { return alive_ != nullptr; }
  /// While running().
  [[nodiscard]] const VirtioRun& run() const { return run_; }
  /// The queue, if it can be used now.
  [[nodiscard]] Queue* queue(unsigned index);
  /// Lets the driver see what was pushed, and says what it did wrong.
  void publish(unsigned index);

 private:
  EventLoop& loop_;
  VirtioRun run_;
  std::shared_ptr<const int> alive_;  // posted work of an earlier run is stale
  std::bitset<kMaxQueues> stopped_;
  bool reported_broken_ = false;
  std::uint64_t turn_cost_ = 0;
  Chain chain_;
};

}  // namespace vmmd::devices
