#pragma once

#include "api/config.h"
#include "api/findings.h"

namespace vmmd::api {

/// What a network device may be: one host's end at most, whole queue pairs, addresses that are some.
void check_networks(const VmConfig& config, bool boots, Findings& findings);

}  // namespace vmmd::api
