#pragma once

#include "base/result.h"
#include "remote/command.h"

// The guest's serial port, from the host's other end of it.
namespace vmmd::remote {

Status run_console(Session& session, const Command& command, const Arguments& arguments);
std::string check_console(const Arguments& arguments);
/// Types a line.
Status run_input(Session& session, const Command& command, const Arguments& arguments);

}  // namespace vmmd::remote
