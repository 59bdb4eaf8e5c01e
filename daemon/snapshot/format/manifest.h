#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "daemon/snapshot/format/problems.h"
#include "proto/snapshot.pb.h"
#include "proto/state.pb.h"

namespace vmmd::snapshot {

/// The bytes of manifest.bin: the message, then its own digest as last field (see proto/snapshot.proto).
[[nodiscard]] std::string encode_manifest(const SnapshotManifest& manifest);

/// Checks the digest, then parses. Any byte that differs from what was written is refused. Hostile input.
Result<SnapshotManifest> decode_manifest(std::string_view bytes);

/// Every rule of docs/snapshot-format.md that needs the manifest alone. Adds one problem per broken rule.
void validate_manifest(const SnapshotManifest& manifest, Problems& problems);

/// The entry of `files` with this name, or nullptr.
[[nodiscard]] const File* find_file(const SnapshotManifest& manifest, std::string_view name);

/// Parses state.bin. The number of units is bounded before anything is allocated for them. Hostile input.
Result<state::SavedState> decode_state(std::string_view bytes);

/// Units are named once, have a state, and are those that the manifest lists, in its order.
void validate_state(const state::SavedState& state, const SnapshotManifest& manifest, Problems& problems);

/// Where `file_offset` of memory.bin lies in the guest's memory. The manifest is valid, the offset inside.
[[nodiscard]] std::uint64_t guest_address_of(const SnapshotManifest& manifest, std::uint64_t file_offset);

/// The time now, for created_at.
[[nodiscard]] Timestamp timestamp_now();

}  // namespace vmmd::snapshot
