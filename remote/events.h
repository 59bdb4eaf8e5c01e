#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "remote/command.h"

namespace vmmd::remote {

/// The part of an event (api/events.h) that commands look at.
struct SeenEvent {
  std::string source;
  std::string event;
  std::map<std::string, std::string> properties;
};
/// Nothing when it is not an event.
[[nodiscard]] std::optional<SeenEvent> parse_event(std::string_view json_line);

/// The state that the VM has since this event: "Running", …, "None" for no VM; empty when the event does not
/// tell.
[[nodiscard]] std::string_view state_after(const SeenEvent& event);

Status run_events(Session& session, const Command& command, const Arguments& arguments);
Status run_wait(Session& session, const Command& command, const Arguments& arguments);
std::string check_events(const Arguments& arguments);
std::string check_wait(const Arguments& arguments);

}  // namespace vmmd::remote
