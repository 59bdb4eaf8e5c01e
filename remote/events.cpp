#include "remote/events.h"

#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/option_text.h"
#include "base/unique_fd.h"
#include "remote/appearance.h"
#include "remote/requests.h"
#include "remote/session.h"
#include "remote/vm_state.h"

namespace vmmd::remote {

namespace {

constexpr double kLongestWait = 1e9;  // seconds
constexpr std::chrono::milliseconds kPatience{10'000};

/// Seconds, with a fraction if wanted; nothing if it is not a time to wait.
std::optional<double> parse_seconds(const std::string& text) {
  double seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if (!(seconds >= 0) || seconds > kLongestWait) return std::nullopt;
  return seconds;
}

/// A timer for so many seconds.
itimerspec timer_for(double seconds) {
  itimerspec when = {};
  when.it_value.tv_sec = static_cast<time_t>(seconds);
  when.it_value.tv_nsec = static_cast<long>((seconds - std::floor(seconds)) * 1e9);
  return when;
}

/// Starts what is left of a timer, and gives back what was left of it before.
Result<itimerspec> set_timer(const UniqueFd& timer, itimerspec when) {
  itimerspec before = {};
  if (timer && ::timerfd_settime(timer.get(), 0, &when, &before) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot start a timer");
  }
  return before;
}

/// All zero would never fire.
itimerspec at_least_now(itimerspec when) {
  if (when.it_value.tv_sec == 0 && when.it_value.tv_nsec == 0) when.it_value.tv_nsec = 1;
  return when;
}

}  // namespace

std::optional<SeenEvent> parse_event(std::string_view json_line) {
  const auto json = nlohmann::json::parse(json_line, nullptr, /*allow_exceptions=*/false);
  const auto text = [](const nlohmann::json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  if (!json.is_object()) return std::nullopt;
  SeenEvent seen{text(json, "source"), text(json, "event"), {}};
  if (const auto properties = json.find("properties"); properties != json.end() && properties->is_object()) {
    for (const auto& [key, value] : properties->items())
      seen.properties[key] = text(*properties, key.c_str());
  }
  return seen;
}

std::string_view state_after(const SeenEvent& event) {
  if (event.source != "vm") return {};
  struct Row {
    std::string_view event, state;
  };
  static constexpr Row kRows[] = {
      {"created", "Created"},   {"booted", "Running"}, {"resumed", "Running"},
      {"rebooted", "Running"},  {"paused", "Paused"},  {"restored", "Paused"},
      {"shutdown", "Shutdown"}, {"deleted", "None"},   {"restore-failed", "None"},
  };
  for (const Row& row : kRows) {
    if (row.event == event.event) return row.state;
  }
  return {};
}

std::string check_events(const Arguments& arguments) {
  const auto since = arguments.find("--since");
  if (since && !parse_count(*since)) return fmt::format("--since: \"{}\" is not a sequence number", *since);
  return {};
}

Status run_events(Session& session, const Command&, const Arguments& arguments) {
  api::EventOptions options;
  if (const auto since = arguments.find("--since")) options.since = parse_count(*since);
  // A pipe's end for writing becomes "ready" when its reader goes (`events | head -1`): no event is waited
  // for then.
  struct stat output = {};
  if (::fstat(STDOUT_FILENO, &output) == 0 && S_ISFIFO(output.st_mode)) options.stop_fd = STDOUT_FILENO;
  return session.client().events(
      [&session](std::string_view line) {
        session.stream(line);
        return session.output_works();
      },
      options);
}

std::string check_wait(const Arguments& arguments) {
  const auto timeout = arguments.find("--timeout");
  if (timeout && !parse_seconds(*timeout)) {
    return fmt::format("--timeout: \"{}\" is not a number of seconds", *timeout);
  }
  return {};
}

Status run_wait(Session& session, const Command&, const Arguments& arguments) {
  const std::string wanted = arguments.get("--state");
  // A daemon that says nothing at all is not waited for.
  const api::Client client(session.globals().api_socket, {.answer = kPatience});
  const auto timeout = arguments.find("--timeout");
  UniqueFd timer;
  if (timeout) {
    timer = UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
    if (!timer) return fail_errno(ErrorCode::Internal, errno, "cannot make a timer");
  }
  const double seconds = timeout ? parse_seconds(*timeout).value_or(0) : 0;
  VMMD_TRY(set_timer(timer, at_least_now(timer_for(seconds))));
  VMMD_TRY(wait_for_socket(session.globals().api_socket, timer.get()));
  // Stopped until the daemon has answered once: even without any time, what is so already is seen.
  VMMD_ASSIGN(const itimerspec left, set_timer(timer, {}));
  Status checked;
  std::string state;
  bool reached = false;
  const auto arrive = [&](std::string_view now) {
    state = now;
    reached = api::equal_ignoring_case(state, wanted);
    return !reached;
  };
  api::EventOptions options;
  options.stop_fd = timer.get();
  // From here on no change goes unseen, so what is true already is asked for now, not before.
  options.on_open = [&] {
    auto now = vm_state(client);
    if (!now) {
      checked = tl::make_unexpected(std::move(now).error());
      return false;
    }
    if (auto started = set_timer(timer, at_least_now(left)); !started) {
      checked = tl::make_unexpected(std::move(started).error());
    }
    return arrive(*now) && checked.has_value();
  };
  const Status followed = client.events(
      [&](std::string_view line) {
        const auto event = parse_event(line);
        const std::string_view now = event ? state_after(*event) : std::string_view();
        return now.empty() || arrive(now);
      },
      options);
  VMMD_TRY(checked);
  if (!reached) VMMD_TRY(followed);
  if (!reached && timer) {
    return fail(ErrorCode::WrongState, "the VM is {} after {} s, not {}", state, *timeout, wanted);
  }
  if (!reached) {
    return fail(ErrorCode::WrongState, "the daemon ended; the VM was {}, never {}", state, wanted);
  }
  session.set_result(nlohmann::json{{"state", state}}.dump());
  return {};
}

}  // namespace vmmd::remote
