#pragma once

#include <optional>
#include <string>

#include "api/config.h"
#include "api/types.h"
#include "base/result.h"

namespace vmmd {

/// vmmd's command line. VM options have Cloud Hypervisor's names and forms.
struct DaemonOptions {
  std::string api_socket;     // PATH, path=PATH or fd=N; empty: no API
  std::string event_monitor;  // PATH or fd=N
  std::string log_file;
  int verbosity = 0;
  bool no_shutdown = false;
  std::optional<api::VmConfig> vm;             // VM options were given: create and boot
  std::optional<api::RestoreRequest> restore;  // --restore
};

/// What to do after parsing: go on, or exit with a status (--help, --version, a mistake; all printed).
struct ParsedOptions {
  DaemonOptions options;
  std::optional<int> exit_status;
};

ParsedOptions parse_options(int argc, char** argv);

}  // namespace vmmd
