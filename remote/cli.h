#pragma once

#include <string>
#include <vector>

#include "remote/session.h"

namespace vmmd::remote {

/// Runs one command line (without the program's name) and reports how it went. `defaults` hold where the
/// words do not say otherwise. 0 success, 1 the command failed, 2 the command line is wrong.
int run_words(const std::vector<std::string>& words, const Globals& defaults);

/// As main().
int run_program(int argc, char** argv);

}  // namespace vmmd::remote
