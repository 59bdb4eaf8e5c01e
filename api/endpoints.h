#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "api/types.h"

namespace vmmd::api {

/// Every path starts with it; the table below holds what follows.
inline constexpr std::string_view kApiRoot = "/api/v1/";

enum class Verb : std::uint8_t { Get, Put };
[[nodiscard]] std::string_view to_string(Verb verb);  // "GET"

/// What the server does with a request; each value is one way to reach the Service.
enum class Action : std::uint8_t {
  Ping,
  Info,
  DeviceCounters,
  Events,
  Create,
  RunCommand,  // Endpoint::command, no body
  Snapshot,
  Restore,
  Cancel,
  Resize,
  ResizeDisk,
  Missing,  // Cloud Hypervisor has it, we do not: 501
};

struct Endpoint {
  std::string_view path;  // "vm.info"
  Verb verb = Verb::Get;
  Action action = Action::Missing;
  Command command = Command::Boot;  // of Action::RunCommand only
  std::string_view what;            // one line for people; for Missing, the feature that is not built
};

/// All endpoints, sorted by nothing in particular; paths are unique.
[[nodiscard]] std::span<const Endpoint> endpoints();

/// The endpoint of a request target ("/api/v1/vm.info?x=1", or absolute form), or null.
[[nodiscard]] const Endpoint* find_endpoint(std::string_view target);

/// The value of `name` in the target's query, as sent (no percent decoding); empty when absent.
[[nodiscard]] std::string_view query_value(std::string_view target, std::string_view name);

}  // namespace vmmd::api
