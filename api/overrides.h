#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "api/config.h"
#include "base/result.h"

namespace vmmd::api {

/// The configuration with which a snapshot is restored: `sealed` (config.json) with `overrides` applied, then
/// checked as validate() checks what a restore needs.
///
/// `overrides` is a JSON merge patch (RFC 7386), empty for none, with two differences: a list whose elements
/// have ids merges element by element, by id; and a new `mode` of a console drops the old mode's path. Only
/// host-side fields may change (paths, sockets, serial and console targets, affinity, rate limits, how memory
/// is backed); a change that the guest would see is refused by name.
///
/// `memory.file` names the RAM of the VM that was saved, not of its clones: it is dropped unless overridden.
Result<VmConfig> restored_config(std::string_view sealed, std::string_view overrides);

/// A field that differs. `before` and `after` are JSON, empty where there is no such field.
struct ConfigChange {
  std::string pointer;
  std::string before;
  std::string after;
};

/// Checks a config.json that was edited by hand as overrides are checked: what the guest would see must be as
/// it was `sealed`, and the rest must fit this host. What changed, in the order of the fields.
Result<std::vector<ConfigChange>> check_edit(std::string_view sealed, std::string_view edited);

}  // namespace vmmd::api
