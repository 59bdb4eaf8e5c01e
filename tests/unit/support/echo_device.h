#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "devices/virtio/device.h"

namespace vmmd::testing {

/// Answers every chain with one byte, unless it is told to hold them until it is let go, or stopped.
struct EchoDevice final : devices::VirtioDevice {
  static constexpr std::uint64_t kOwnFeature = 1ULL << 5;

  explicit EchoDevice(devices::EventLoop& l) : loop_(l) {}
  [[nodiscard]] devices::VirtioType type() const override { return devices::VirtioType::Block; }
  [[nodiscard]] devices::EventLoop& loop() override { return loop_; }
  [[nodiscard]] std::uint64_t features() const override { return kOwnFeature; }
  [[nodiscard]] std::vector<std::uint16_t> queue_sizes() const override { return {16, 8}; }
  [[nodiscard]] std::uint64_t read_config(std::uint64_t offset, unsigned) override { return 0x60 + offset; }
  void write_config(std::uint64_t offset, unsigned, std::uint64_t value) override {
    config[offset] = value;
    if (run.transport != nullptr) run.transport->interrupt_config();
  }
  void start(const devices::VirtioRun& r) override {
    run = r;
    ++starts;
    for (unsigned i = 0; i < run.queues.size(); ++i) notify(i);
  }
  void stop(std::function<void()> stopped) override {
    done = std::move(stopped);
    if (gives_back) {
      for (const auto& [index, chain] : std::exchange(held, {})) run.queues[index].give_back(chain);
    }
    if (!hold || gives_back) let_go();
  }
  void notify(unsigned index) override {
    devices::Queue& queue = run.queues[index];
    if (!queue.running()) return;
    devices::Chain chain;
    while (queue.pop(chain)) {
      if (hold) {
        held.emplace_back(index, chain);
      } else {
        use(index, chain);
      }
    }
    if (queue.broken() != nullptr) run.transport->needs_reset(queue.broken());
  }
  void stop_queue(unsigned, std::function<void()> stopped) override { stop(std::move(stopped)); }
  void start_queue(unsigned index) override {
    ++queue_starts;
    notify(index);
  }
  void let_go() {
    hold = false;
    for (const auto& [index, chain] : std::exchange(held, {})) use(index, chain);
    if (done) std::exchange(done, nullptr)();
  }
  void use(unsigned index, const devices::Chain& chain) {
    run.queues[index].push(chain, 1);
    if (run.queues[index].flush()) run.transport->interrupt_queue(index);
  }
  [[nodiscard]] std::string_view unit_name() const override { return "disk:root"; }
  [[nodiscard]] Result<devices::UnitState> save() const override { return devices::UnitState{}; }
  Status restore(const devices::UnitState&) override { return {}; }
  void reset() override { ++resets; }
  devices::EventLoop& loop_;
  devices::VirtioRun run;
  std::map<std::uint64_t, std::uint64_t> config;
  std::vector<std::pair<unsigned, devices::Chain>> held;
  std::function<void()> done;
  bool hold = false;
  bool gives_back = false;  // at a stop, what it holds
  unsigned starts = 0, queue_starts = 0, resets = 0;
};

}  // namespace vmmd::testing
