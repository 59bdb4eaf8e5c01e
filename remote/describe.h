#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "daemon/snapshot/format/catalogue.h"

// Snapshots as people and scripts see them.
namespace vmmd::remote {

/// One row of `snapshot list`.
[[nodiscard]] nlohmann::ordered_json summary_json(const snapshot::SnapshotDescription& snapshot);
/// Everything in the manifest.
[[nodiscard]] nlohmann::ordered_json details_json(const snapshot::SnapshotDescription& snapshot);

/// `now`: seconds since 1970.
[[nodiscard]] std::string list_text(const std::vector<snapshot::SnapshotDescription>& snapshots,
                                    std::int64_t now);
[[nodiscard]] std::string details_text(const snapshot::SnapshotDescription& snapshot);

}  // namespace vmmd::remote
