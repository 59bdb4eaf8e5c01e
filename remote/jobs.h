#pragma once

#include "base/result.h"
#include "remote/command.h"

// Commands that are jobs of the daemon: they take their time.
namespace vmmd::remote {

/// Prints what was done where an option of ours asked for it; ch-remote's form is as quiet as there.
Status run_snapshot(Session& session, const Command& command, const Arguments& arguments);
Status run_restore(Session& session, const Command& command, const Arguments& arguments);

}  // namespace vmmd::remote
