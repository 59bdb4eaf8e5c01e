#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// Text for people: aligned columns, sizes, times.
namespace vmmd::remote {

/// Rows of cells as lines, each column as wide as its widest cell; no space at the end of a line. Widths are
/// counted in UTF-8 characters.
[[nodiscard]] std::string format_table(const std::vector<std::vector<std::string>>& rows);

/// "512 MiB", "1.5 GiB", "17 B".
[[nodiscard]] std::string format_size(std::uint64_t bytes);

/// "12s", "5m", "3h", "40d"; of a time in the future "0s".
[[nodiscard]] std::string format_age(std::int64_t seconds);

/// UTC, as RFC 3339 has it: "2026-11-21T10:38:00Z".
[[nodiscard]] std::string format_time(std::int64_t seconds_since_1970);

}  // namespace vmmd::remote
