#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/config.h"
#include "base/result.h"

namespace vmmd::api {

/// Something that is wrong with the configuration of a restore.
struct ConfigProblem {
  std::string pointer;  // JSON pointer of the field; empty where it is about no single one
  std::string text;     // for people, with the pointer
};

/// The configuration with which a snapshot is restored: `sealed` (config.json) with `overrides` applied, then
/// checked as validate() checks what a restore needs. Everything that is wrong is added to `problems`; what
/// is wrong with an override leaves it out, so that all else can be checked as well. Nothing if not even
/// `sealed` can be understood.
///
/// `overrides` is a JSON merge patch (RFC 7386), empty for none, with two differences: a list whose elements
/// have ids merges element by element, by id; and a new `mode` of a console drops the old mode's path. Only
/// host-side fields may change (paths, sockets, serial and console targets, affinity, rate limits, how memory
/// is backed); a change that the guest would see is refused by name.
///
/// `memory.file` names the RAM of the VM that was saved, not of its clones: it is dropped unless overridden.
std::optional<VmConfig> restored_config(std::string_view sealed, std::string_view overrides,
                                        std::vector<ConfigProblem>& problems);

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
