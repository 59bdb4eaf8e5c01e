#pragma once

#include <string_view>

#include "api/events.h"

namespace vmmd::control {

/// Publishes an event, and writes it to the log for `vmmd -v`. Not for what is a warning or an error: that is
/// in the log already, whatever its level.
void announce(api::EventBus& events, std::string_view source, std::string_view event,
              const api::EventBus::Properties& properties = {});

}  // namespace vmmd::control
