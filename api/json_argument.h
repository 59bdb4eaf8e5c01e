#pragma once

#include <string>

#include "base/result.h"

namespace vmmd::api {

/// JSON given on a command line: `source` is a file's path, "-" for standard input, or the JSON itself when
/// it starts with '{'. Not checked; at most as long as a body that the server takes.
Result<std::string> read_json_argument(const std::string& source);

}  // namespace vmmd::api
