#pragma once

#include "api/config.h"
#include "api/findings.h"

namespace vmmd::api {

// Parts of validate() that look across devices.

/// Modes, their files and sockets; the terminal serves one console only (Conflict).
void check_consoles(const VmConfig& config, Findings& findings);

/// Device ids: well-formed, not reserved, each there once over all kinds of devices (Conflict).
void check_device_ids(const VmConfig& config, Findings& findings);

/// The socket of vsock can be made.
void check_vsock(const VmConfig& config, Findings& findings);

/// A file that somebody writes must not be used twice (Conflict).
void check_shared_paths(const VmConfig& config, Findings& findings);

}  // namespace vmmd::api
