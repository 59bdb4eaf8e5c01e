#include "api/mac_address.h"

#include <charconv>
#include <cstddef>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace vmmd::api {

Result<MacAddress> parse_mac(std::string_view text) {
  MacAddress mac{};
  const auto refuse = [&] {
    return fail(ErrorCode::BadRequest, "\"{}\" is not a MAC address: write 02:12:34:56:78:9a",
                text.substr(0, 64));
  };
  if (text.size() != 3 * mac.size() - 1) return refuse();
  for (std::size_t i = 0; i < mac.size(); ++i) {
    const char* const from = text.data() + 3 * i;
    const auto [end, error] = std::from_chars(from, from + 2, mac.at(i), 16);
    if (error != std::errc() || end != from + 2 || (i + 1 < mac.size() && *end != ':')) return refuse();
  }
  if ((mac[0] & 1U) != 0 || mac == MacAddress{}) {
    return fail(ErrorCode::BadRequest, "the MAC address {} is not one of a single station", text);
  }
  return mac;
}

std::string mac_text(const MacAddress& mac) {
  return fmt::format("{:02x}", fmt::join(mac, ":"));
}

}  // namespace vmmd::api
