#pragma once

#include <string_view>

#include "api/config.h"
#include "base/result.h"

namespace vmmd::api {

/// The configuration with which a snapshot is restored: `sealed` (config.json) with `overrides` applied, then
/// checked as validate() checks what a restore needs.
///
/// `overrides` is a JSON merge patch (RFC 7386), empty for none, with two differences: a list whose elements
/// have ids merges element by element, by id; and a new `mode` of a console drops the old mode's path. Only host-side fields may change (paths, sockets, serial and
/// console targets, affinity, how memory is backed); a change that the guest would see is refused by name.
///
/// `memory.file` names the RAM of the VM that was saved, not of its clones: it is dropped unless overridden.
Result<VmConfig> restored_config(std::string_view sealed, std::string_view overrides);

}  // namespace vmmd::api
