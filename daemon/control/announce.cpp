#include "daemon/control/announce.h"

#include <string>

#include <fmt/format.h>

#include "daemon/log.h"

namespace vmmd::control {

void announce(api::EventBus& events, std::string_view source, std::string_view event,
              const api::EventBus::Properties& properties) {
  if (log_enabled(LogLevel::Info)) {
    std::string line = fmt::format("{}: {}", source, event);
    for (const auto& [name, value] : properties) line += fmt::format(" {}={}", name, value);
    write_log(LogLevel::Info, line);
  }
  events.publish(source, event, properties);
}

}  // namespace vmmd::control
