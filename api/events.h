#pragma once

#include <time.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
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

/// One JSON object on one line, no newline at its end. Cloud Hypervisor's record plus "sequence" and "wall":
/// {"sequence":1,"timestamp":{"secs":5,"nanos":6},"wall":{"secs":7,"nanos":8},"source":"vm",
///  "event":"booted","properties":null}
/// "timestamp" is CLOCK_MONOTONIC, "properties" an object of strings or null. Bytes that are not UTF-8
/// become U+FFFD.
[[nodiscard]] std::string to_json(const Event& event);

/// An event as listeners and streams pass it on: rendered once, shared by all.
struct EventLine {
  std::uint64_t sequence = 0;
  std::shared_ptr<const std::string> json;
};

/// Numbers events, remembers the last ones and hands them to subscribers. Thread-safe; publish() never
/// blocks on a subscriber: a listener is called on the publishing thread, under the bus's lock and in order
/// of sequence; it must only queue, and must not call the bus.
class EventBus {
 public:
  using Listener =
      std::function<void(const std::shared_ptr<const std::string>& json_line, std::uint64_t sequence)>;
  using Properties = std::vector<std::pair<std::string, std::string>>;

  static constexpr std::size_t kHistory = 1024;  // events

  EventBus();
  ~EventBus();
  EventBus(const EventBus&) = delete;
  EventBus& operator=(const EventBus&) = delete;

  void publish(std::string_view source, std::string_view event, const Properties& properties = {});
  /// Keeps calling `listener` until the returned handle is destroyed; never afterwards.
  [[nodiscard]] std::shared_ptr<void> subscribe(Listener listener);

  struct Resumed {
    std::vector<EventLine> missed;  // those of the history after `since`, oldest first
    std::uint64_t last = 0;         // sequence of the latest event so far
    std::shared_ptr<void> handle;
  };
  /// As subscribe(); with `since`, without a gap or a repetition after `since`, as far as the history
  /// reaches. A `since` that lies in the future is another daemon's: the whole history is missed then.
  [[nodiscard]] Resumed subscribe_since(std::optional<std::uint64_t> since, Listener listener);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace vmmd::api
