#pragma once

#include "api/config.h"
#include "api/findings.h"

namespace vmmd::api {

/// Adds NotSupported for everything the configuration asks for that the schema knows and vmmd does not build
/// yet. A field that asks for nothing (an empty list, `false`, a device's default that changes nothing) is
/// fine.
void find_unbuilt(const VmConfig& config, Findings& findings);

}  // namespace vmmd::api
