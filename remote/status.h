#pragma once

#include "base/result.h"
#include "remote/command.h"

namespace vmmd::remote {

/// The VM in a few lines, for people.
Status run_status(Session& session, const Command& command, const Arguments& arguments);

}  // namespace vmmd::remote
