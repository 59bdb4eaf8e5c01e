#include "api/events.h"

#include <algorithm>
#include <deque>
#include <iterator>
#include <mutex>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace vmmd::api {

namespace {

std::string json_text(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// The part that needs no lock to write: `"source":"vm","event":"booted","properties":null}`.
std::string tail(std::string_view source, std::string_view event, const EventBus::Properties& properties) {
  std::string text =
      fmt::format("\"source\":{},\"event\":{},\"properties\":", json_text(source), json_text(event));
  if (properties.empty()) return text + "null}";
  char separator = '{';
  for (const auto& [key, value] : properties) {
    fmt::format_to(std::back_inserter(text), "{}{}:{}", separator, json_text(key), json_text(value));
    separator = ',';
  }
  return text + "}}";
}

std::string head(std::uint64_t sequence, const timespec& monotonic, const timespec& wall) {
  return fmt::format(
      R"({{"sequence":{},"timestamp":{{"secs":{},"nanos":{}}},"wall":{{"secs":{},"nanos":{}}},)", sequence,
      monotonic.tv_sec, monotonic.tv_nsec, wall.tv_sec, wall.tv_nsec);
}

}  // namespace

std::string to_json(const Event& event) {
  return head(event.sequence, event.monotonic, event.wall) +
         tail(event.source, event.event, event.properties);
}

struct EventBus::State {
  std::mutex mutex;
  std::uint64_t last = 0;
  std::deque<EventLine> history;  // at most kHistory
  std::vector<std::pair<std::uint64_t, Listener>> listeners;
  std::uint64_t next_listener = 0;

  static std::shared_ptr<void> add(const std::shared_ptr<State>& state, Listener listener);
};

namespace {

/// Ends a subscription under the lock that publish() holds while it calls listeners.
template <class State>
struct Unsubscribe {
  std::shared_ptr<State> state;
  std::uint64_t id;

  Unsubscribe(std::shared_ptr<State> bus, std::uint64_t listener) : state(std::move(bus)), id(listener) {}
  Unsubscribe(const Unsubscribe&) = delete;
  Unsubscribe& operator=(const Unsubscribe&) = delete;
  ~Unsubscribe() {
    const std::scoped_lock lock(state->mutex);
    std::erase_if(state->listeners, [this](const auto& entry) { return entry.first == id; });
  }
};

}  // namespace

std::shared_ptr<void> EventBus::State::add(const std::shared_ptr<State>& state, Listener listener) {
  const std::uint64_t id = state->next_listener++;
  state->listeners.emplace_back(id, std::move(listener));
  return std::make_shared<Unsubscribe<State>>(state, id);
}

EventBus::EventBus() : state_(std::make_shared<State>()) {}
EventBus::~EventBus() = default;

void EventBus::publish(std::string_view source, std::string_view event, const Properties& properties) {
  const std::string rest = tail(source, event, properties);
  timespec monotonic = {};
  timespec wall = {};
  State& state = *state_;
  const std::scoped_lock lock(state.mutex);
  // Read under the lock, so that time never runs against the sequence.
  ::clock_gettime(CLOCK_MONOTONIC, &monotonic);
  ::clock_gettime(CLOCK_REALTIME, &wall);
  const std::uint64_t sequence = ++state.last;
  auto line = std::make_shared<const std::string>(head(sequence, monotonic, wall) + rest);
  if (state.history.size() == kHistory) state.history.pop_front();
  state.history.push_back({sequence, line});
  for (const auto& [id, listener] : state.listeners) listener(line, sequence);
}

std::shared_ptr<void> EventBus::subscribe(Listener listener) {
  const std::scoped_lock lock(state_->mutex);
  return State::add(state_, std::move(listener));
}

EventBus::Resumed EventBus::subscribe_since(std::optional<std::uint64_t> since, Listener listener) {
  Resumed resumed;
  const std::scoped_lock lock(state_->mutex);
  resumed.last = state_->last;
  if (since) {
    const std::uint64_t after = *since > state_->last ? 0 : *since;
    const auto first = std::ranges::find_if(state_->history,
                                            [after](const EventLine& line) { return line.sequence > after; });
    resumed.missed.assign(first, state_->history.end());
  }
  resumed.handle = State::add(state_, std::move(listener));
  return resumed;
}

}  // namespace vmmd::api
