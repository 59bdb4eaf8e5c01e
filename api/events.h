#pragma once

#include <time.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vmmd::api {

/// One event. Names are Cloud Hypervisor's where it has one ("vm"/"booted"), ours beside them.
struct Event {
  std::uint64_t sequence = 0;  // from 1, no gaps, per daemon
  timespec wall = {};          // CLOCK_REALTIME
  timespec monotonic = {};     // CLOCK_MONOTONIC
  std::string source;          // "vmm", "vm", "guest"
  std::string event;           // "booted"
  std::vector<std::pair<std::string, std::string>> properties;
};

/// One JSON object on one line, no newline at its end.
[[nodiscard]] std::string to_json(const Event& event);

/// Numbers events and hands them to subscribers. Thread-safe; publish() never blocks on a subscriber: a
/// listener is called on the publishing thread and must only queue.
class EventBus {
 public:
  using Listener =
      std::function<void(const std::shared_ptr<const std::string>& json_line, std::uint64_t sequence)>;
  using Properties = std::vector<std::pair<std::string, std::string>>;

  EventBus();
  ~EventBus();
  EventBus(const EventBus&) = delete;
  EventBus& operator=(const EventBus&) = delete;

  void publish(std::string_view source, std::string_view event, Properties properties = {});
  /// Keeps calling `listener` until the returned handle is destroyed.
  [[nodiscard]] std::shared_ptr<void> subscribe(Listener listener);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace vmmd::api
