#pragma once

#include <string>

#include "base/result.h"

namespace vmmd::remote {

/// Waits until something listens at the Unix socket `path`, or `stop_fd` (-1: none) is readable: then
/// NotFound. Its directory must exist. An error of another kind is left for who connects next.
Status wait_for_socket(const std::string& path, int stop_fd);

}  // namespace vmmd::remote
