#pragma once

#include <string>

#include "base/result.h"
#include "remote/command.h"

// Scripts that let a shell complete vmm-remote's command lines, made from the table of commands.
namespace vmmd::remote {

[[nodiscard]] std::string bash_completion();
[[nodiscard]] std::string zsh_completion();
[[nodiscard]] std::string fish_completion();

Status run_completion(Session& session, const Command& command, const Arguments& arguments);

}  // namespace vmmd::remote
