#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "base/result.h"

namespace vmmd {

/// Fills `out`, at most 256 bytes, from getrandom(2). Internal, saying `failure` and why, if that fails.
Status fill_random(std::span<std::byte> out, std::string_view failure);

}  // namespace vmmd
