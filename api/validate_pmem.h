#pragma once

#include "api/config.h"
#include "api/findings.h"

namespace vmmd::api {

/// Files of pmem: there, usable, as large as the device, of a size that guests can map. Conflicts between
/// paths are check_shared_paths()'s.
void check_pmem(const VmConfig& config, Findings& findings);

}  // namespace vmmd::api
