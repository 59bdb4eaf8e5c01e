#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "devices/char_backend.h"

namespace vmmd::testing {

/// A host that the test plays: collects output, and offers input as a real backend does (what the device does
/// not take waits here until receiver_ready()). receiver_ready() only notes the call, as the real one does.
class FakeCharBackend final : public devices::CharBackend {
 public:
  void write(std::span<const std::byte> data) override {
    for (const std::byte byte : data) output.push_back(static_cast<char>(byte));
  }
  void set_receiver(devices::CharReceiver* r) override { receiver = r; }
  void receiver_ready() override {
    ++ready_calls;
    ready_ = true;
  }
  void drain(std::chrono::milliseconds) override {}
  [[nodiscard]] devices::CharCounters counters() const override { return fixed_counters; }

  [[nodiscard]] devices::CharSize size() const override { return terminal; }

  /// The user's terminal changes its size.
  void resize(devices::CharSize size) {
    terminal = size;
    if (receiver != nullptr) receiver->resized();
  }
  /// The user types. Offered at once, unless the device has refused something and not asked again.
  void type(std::string_view text) {
    waiting += text;
    deliver();
  }
  /// Lets the loop run: offers again if the device has asked.
  void deliver() {
    while (ready_ && receiver != nullptr && !waiting.empty()) {
      const std::size_t taken = receiver->receive(std::as_bytes(std::span(waiting)));
      if (taken < waiting.size()) ready_ = false;
      waiting.erase(0, taken);
    }
  }

  std::string output;
  std::string waiting;
  int ready_calls = 0;
  devices::CharReceiver* receiver = nullptr;
  devices::CharCounters fixed_counters;
  devices::CharSize terminal;

 private:
  bool ready_ = true;
};

}  // namespace vmmd::testing
