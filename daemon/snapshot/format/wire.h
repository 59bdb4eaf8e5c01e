#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace vmmd::snapshot {

/// Counts the top-level fields of a protobuf message without allocating: a few bytes of input would otherwise
/// become many objects. Nothing if `bytes` is no message, uses groups, or has more than `limit` fields.
std::optional<std::size_t> count_fields(std::string_view bytes, std::size_t limit);

}  // namespace vmmd::snapshot
