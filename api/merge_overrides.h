#pragma once

#include <nlohmann/json_fwd.hpp>

#include "api/findings.h"

namespace vmmd::api {

/// Merges `overrides` into `config` (both passed JsonDocument): RFC 7386, but that a list whose elements have
/// ids merges element by element, by id, and that what the old mode of a console, or the old end of a
/// network, needed goes with it. Elements of such a list without an id, or with one that is not there, are
/// told of and left out; only rate limit groups may be new.
void merge_overrides(nlohmann::json& config, const nlohmann::json& overrides, Findings& findings);

}  // namespace vmmd::api
