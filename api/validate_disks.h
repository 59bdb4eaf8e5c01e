#pragma once

#include "api/config.h"
#include "api/findings.h"

namespace vmmd::api {

/// Disks and rate limit groups: images that are there and usable, queues, limits, options that exclude each
/// other. Conflicts between paths are check_shared_paths()'s. `look_inside`: refuses images that look like
/// another format than raw; not at restore, where the guest may have written what it likes.
void check_disks(const VmConfig& config, bool boots, Findings& findings);

}  // namespace vmmd::api
