#pragma once

#include <string_view>
#include <vector>

namespace vmmd::api {

/// The candidate that `word` was probably meant to be: at most two letters added, left out or changed; empty
/// if none.
[[nodiscard]] std::string_view closest(std::string_view word,
                                       const std::vector<std::string_view>& candidates);

}  // namespace vmmd::api
