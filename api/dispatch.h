#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "api/endpoints.h"
#include "api/messages.h"
#include "api/service.h"

namespace vmmd::api {

/// What goes back to a client, before HTTP dresses it.
struct Answer {
  unsigned status = 204;
  std::string body;        // JSON; empty with 204
  std::string_view allow;  // of 405 for a wrong verb: the right one
};

/// ["<what> failed", messages...] with the error's status.
[[nodiscard]] Answer error_answer(std::string_view what, Error error);
/// One message and a status that no ErrorCode has.
[[nodiscard]] Answer plain_answer(unsigned status, std::string message);

/// From a request without HTTP to a call of the Service and back: parses bodies, picks success codes.
class Dispatcher {
 public:
  using Reply = std::function<void(Answer)>;

  struct Outcome {
    std::optional<Answer> now;         // nothing: `reply` is called later
    std::string cancel_on_disconnect;  // job to cancel if the client goes away; mostly empty
  };

  Dispatcher(Service& service, const PingResponse& ping) : service_(service), ping_(to_json(ping)) {}

  /// Null when the request may go on (to its body); else the answer: 404, 405, 501.
  [[nodiscard]] static std::optional<Answer> refuse(const Endpoint* endpoint, std::string_view verb,
                                                    std::string_view target);

  /// Null when `body`, sent to an endpoint without one, says nothing ("", "{}"); else the answer, 400.
  [[nodiscard]] static std::optional<Answer> refuse_body(std::string_view what, std::string_view body);

  /// Null when an endpoint that takes no descriptors got none; else the answer, 400.
  [[nodiscard]] static std::optional<Answer> refuse_fds(std::string_view what, std::size_t count);

  /// `endpoint` passed refuse() and is not Events; `fds` came with the request. When the outcome is not there
  /// yet, `reply` is called exactly once, on any thread, even if the Service forgets its callback.
  [[nodiscard]] Outcome run(const Endpoint& endpoint, std::string_view body, PassedFds fds, Reply reply);

 private:
  Outcome run_snapshot(std::string_view body, Reply reply);

  Service& service_;
  const std::string ping_;
};

}  // namespace vmmd::api
