#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace vmmd::api {

using MacAddress = std::array<std::uint8_t, 6>;

/// "02:00:5e:10:20:30" of one station: a group's address is refused, and so is that of nobody (all zeros).
Result<MacAddress> parse_mac(std::string_view text);
[[nodiscard]] std::string mac_text(const MacAddress& mac);

}  // namespace vmmd::api
