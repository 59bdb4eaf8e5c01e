#include "api/dispatch.h"

#include <atomic>
#include <memory>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/config_json.h"

namespace vmmd::api {

namespace {

/// Makes "exactly once" true of a Reply: a second call does nothing, and a Service that destroys its
/// callback uncalled answers 500 rather than leaving the client waiting for ever.
class OneReply {
 public:
  OneReply(std::string_view what, Dispatcher::Reply reply) : what_(what), reply_(std::move(reply)) {}
  OneReply(const OneReply&) = delete;
  OneReply& operator=(const OneReply&) = delete;
  ~OneReply() {
    if (done_.load()) return;
    give(error_answer(what_, Error{ErrorCode::Internal, {"the daemon dropped the command unanswered"}}));
  }

  void give(Answer answer) {
    if (!done_.exchange(true)) reply_(std::move(answer));
  }
  [[nodiscard]] std::string_view what() const { return what_; }

 private:
  const std::string_view what_;  // of the endpoint table
  Dispatcher::Reply reply_;
  std::atomic<bool> done_ = false;
};

/// Most commands: 204 or an error.
Done<void> no_content(std::shared_ptr<OneReply> reply) {
  return [reply = std::move(reply)](Result<void> result) {
    reply->give(result ? Answer{} : error_answer(reply->what(), std::move(result).error()));
  };
}

/// Clients send "{}" or nothing where there is nothing to say (ch-remote, curl -d '').
bool says_nothing(std::string_view body) {
  constexpr std::string_view kSpace = " \t\r\n";
  const auto first = body.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return true;
  if (body[first] != '{') return false;
  const auto second = body.find_first_not_of(kSpace, first + 1);
  return second != std::string_view::npos && body[second] == '}' &&
         body.find_first_not_of(kSpace, second + 1) == std::string_view::npos;
}

bool has_body(Action action) {
  return action == Action::Create || action == Action::Snapshot || action == Action::Restore ||
         action == Action::Cancel || action == Action::Resize || action == Action::ResizeDisk;
}

bool takes_fds(Action action) {
  return action == Action::Create || action == Action::Restore;
}

}  // namespace

Answer error_answer(std::string_view what, Error error) {
  error.messages.insert(error.messages.begin(), fmt::format("{} failed", what));
  Answer answer;
  answer.status = static_cast<unsigned>(error.code);
  answer.body = to_json(error);
  return answer;
}

Answer plain_answer(unsigned status, std::string message) {
  Answer answer;
  answer.status = status;
  answer.body = to_json(Error{ErrorCode::Internal, {std::move(message)}});
  return answer;
}

std::optional<Answer> Dispatcher::refuse(const Endpoint* endpoint, std::string_view verb,
                                         std::string_view target) {
  // Long enough for every path of ours; a longer one is not worth repeating whole.
  constexpr std::size_t kShown = 200;
  if (endpoint == nullptr) {
    return plain_answer(404,
                        fmt::format("no such endpoint: {}{}; see {}vmm.ping and api/openapi.yaml",
                                    target.substr(0, kShown), target.size() > kShown ? "..." : "", kApiRoot));
  }
  if (verb != to_string(endpoint->verb)) {
    Answer answer = plain_answer(405, fmt::format("{} takes {}, not {}", endpoint->path,
                                                  to_string(endpoint->verb), verb.substr(0, kShown)));
    answer.allow = to_string(endpoint->verb);
    return answer;
  }
  if (endpoint->action == Action::Missing) {
    Error error{ErrorCode::NotSupported, {fmt::format("{} is not built yet", endpoint->what)}};
    return error_answer(endpoint->path, std::move(error));
  }
  return std::nullopt;
}

std::optional<Answer> Dispatcher::refuse_body(std::string_view what, std::string_view body) {
  if (says_nothing(body)) return std::nullopt;
  return error_answer(what, Error{ErrorCode::BadRequest, {"it takes no body; send none, or {}"}});
}

std::optional<Answer> Dispatcher::refuse_fds(std::string_view what, std::size_t count) {
  if (count == 0) return std::nullopt;
  return error_answer(
      what, Error{ErrorCode::BadRequest, {fmt::format("it takes no descriptors; {} came with it", count)}});
}

Dispatcher::Outcome Dispatcher::run(const Endpoint& endpoint, std::string_view body, PassedFds fds,
                                    Reply reply) {
  Outcome outcome;
  if (!takes_fds(endpoint.action)) {
    outcome.now = refuse_fds(endpoint.path, fds.size());
    if (outcome.now) return outcome;
  }
  if (!has_body(endpoint.action)) {
    outcome.now = refuse_body(endpoint.path, body);
    if (outcome.now) return outcome;
  }
  switch (endpoint.action) {
    case Action::Ping:
      outcome.now = Answer{200, ping_, {}};
      break;
    case Action::Info: {
      auto info = service_.info();
      outcome.now =
          info ? Answer{200, to_json(**info), {}} : error_answer(endpoint.path, std::move(info).error());
      break;
    }
    case Action::DeviceCounters: {
      auto counters = service_.counters();
      outcome.now = counters ? Answer{200, to_json(*counters), {}}
                             : error_answer(endpoint.path, std::move(counters).error());
      break;
    }
    case Action::Create: {
      auto config = parse_vm_config(body);
      if (!config) {
        outcome.now = error_answer(endpoint.path, std::move(config).error());
        break;
      }
      service_.create(std::move(*config), std::move(fds),
                      no_content(std::make_shared<OneReply>(endpoint.path, std::move(reply))));
      break;
    }
    case Action::RunCommand:
      service_.command(endpoint.command,
                       no_content(std::make_shared<OneReply>(endpoint.path, std::move(reply))));
      break;
    case Action::Snapshot:
      return run_snapshot(body, std::move(reply));
    case Action::Restore: {
      auto request = parse_restore_request(body);
      if (!request) {
        outcome.now = error_answer(endpoint.path, std::move(request).error());
        break;
      }
      service_.restore(std::move(*request), std::move(fds),
                       no_content(std::make_shared<OneReply>(endpoint.path, std::move(reply))));
      break;
    }
    case Action::Cancel: {
      auto id = parse_cancel_request(body);
      if (!id) {
        outcome.now = error_answer(endpoint.path, std::move(id).error());
        break;
      }
      service_.cancel(std::move(*id),
                      no_content(std::make_shared<OneReply>(endpoint.path, std::move(reply))));
      break;
    }
    case Action::Resize: {
      auto request = parse_resize_request(body);
      if (!request) {
        outcome.now = error_answer(endpoint.path, std::move(request).error());
        break;
      }
      service_.resize(*request, no_content(std::make_shared<OneReply>(endpoint.path, std::move(reply))));
      break;
    }
    case Action::ResizeDisk: {
      auto request = parse_resize_disk_request(body);
      if (!request) {
        outcome.now = error_answer(endpoint.path, std::move(request).error());
        break;
      }
      service_.resize_disk(std::move(*request),
                           no_content(std::make_shared<OneReply>(endpoint.path, std::move(reply))));
      break;
    }
    case Action::Events:
    case Action::Missing:
      outcome.now = plain_answer(500, "this endpoint has no command");
      break;
  }
  return outcome;
}

Dispatcher::Outcome Dispatcher::run_snapshot(std::string_view body, Reply reply) {
  constexpr std::string_view kWhat = "vm.snapshot";
  Outcome outcome;
  auto request = parse_snapshot_request(body);
  if (!request) {
    outcome.now = error_answer(kWhat, std::move(request).error());
    return outcome;
  }
  // Cloud Hypervisor's clients expect 204; who uses a field of ours wants to know what was done.
  const nlohmann::json fields = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
  const bool quiet = fields.size() == 1;
  const bool cancel = request->cancel_on_disconnect;

  auto once = std::make_shared<OneReply>(kWhat, std::move(reply));
  auto done = [once = std::move(once), quiet](Result<SnapshotResult> result) {
    if (!result) {
      once->give(error_answer(once->what(), std::move(result).error()));
    } else {
      once->give(quiet ? Answer{} : Answer{200, to_json(*result), {}});
    }
  };
  std::string job = service_.snapshot(std::move(*request), std::move(done));
  if (cancel) outcome.cancel_on_disconnect = std::move(job);
  return outcome;
}

}  // namespace vmmd::api
