#pragma once

#include <set>
#include <string>

#include "api/config.h"

namespace vmmd::snapshot {

/// Names of the units with state that a machine of this configuration has: what a snapshot of it may hold.
/// The machine itself is asked in the end; this is for those who have none (`snapshot check`), and a test
/// compares the two. A new kind of device is a line here.
[[nodiscard]] std::set<std::string> unit_names(const api::VmConfig& config);

}  // namespace vmmd::snapshot
