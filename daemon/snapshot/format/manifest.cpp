#include "daemon/snapshot/format/manifest.h"

#include <time.h>

#include <cstdint>
#include <set>

#include "daemon/snapshot/format/digest.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/wire.h"

namespace vmmd::snapshot {
namespace {

// Key of field 536870911 (the highest there is, so it stays last), wire type 2, as a varint; then the length.
constexpr std::string_view kTrailer("\xFA\xFF\xFF\xFF\x0F\x10", 6);
constexpr std::size_t kTrailerSize = kTrailer.size() + Digest::kSize;

constexpr std::size_t kManifestFieldLimit = 32768;
constexpr std::size_t kStateFieldLimit = kUnitLimit;

}  // namespace

std::string encode_manifest(const SnapshotManifest& manifest) {
  SnapshotManifest body = manifest;
  body.clear_manifest_digest();
  std::string bytes = body.SerializeAsString();
  const Digest digest = Digest::of(bytes);
  bytes += kTrailer;
  bytes += digest.to_bytes();
  return bytes;
}

Result<SnapshotManifest> decode_manifest(std::string_view bytes) {
  if (bytes.size() > kManifestLimit) {
    return fail(ErrorCode::TooLarge, "{} has {} bytes; at most {} are allowed", kManifestName, bytes.size(),
                kManifestLimit);
  }
  if (bytes.size() < kTrailerSize || bytes.substr(bytes.size() - kTrailerSize, kTrailer.size()) != kTrailer) {
    return fail(ErrorCode::BadRequest, "{} does not end with its digest: it is cut off, or not vmmd's",
                kManifestName);
  }
  const std::string_view body = bytes.substr(0, bytes.size() - kTrailerSize);
  if (Digest::of(body).to_bytes() != bytes.substr(bytes.size() - Digest::kSize)) {
    return fail(ErrorCode::BadRequest, "{} is damaged: it does not have the digest it was written with",
                kManifestName);
  }
  SnapshotManifest manifest;
  if (!count_fields(body, kManifestFieldLimit) ||
      !manifest.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    return fail(ErrorCode::BadRequest, "{} is not a SnapshotManifest", kManifestName);
  }
  manifest.clear_manifest_digest();
  return manifest;
}

const File* find_file(const SnapshotManifest& manifest, std::string_view name) {
  for (const File& file : manifest.files()) {
    if (file.name() == name) return &file;
  }
  return nullptr;
}

Result<state::SavedState> decode_state(std::string_view bytes) {
  if (bytes.size() > kStateLimit) {
    return fail(ErrorCode::TooLarge, "{} has {} bytes; at most {} are allowed", kStateName, bytes.size(),
                kStateLimit);
  }
  state::SavedState state;
  if (!count_fields(bytes, kStateFieldLimit) ||
      !state.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return fail(ErrorCode::BadRequest, "{} is not a SavedState of at most {} units", kStateName, kUnitLimit);
  }
  return state;
}

void validate_state(const state::SavedState& state, const SnapshotManifest& manifest, Problems& problems) {
  std::set<std::string_view> names;
  for (const state::SavedUnit& unit : state.units()) {
    if (!names.insert(unit.name()).second) {
      problems.add("{} has the unit \"{}\" more than once", kStateName, shown(unit.name()));
    }
    if (unit.state().type_url().empty()) problems.add("unit \"{}\" has no state", shown(unit.name()));
  }
  bool same = state.units_size() == manifest.units_size();
  for (int i = 0; same && i < state.units_size(); ++i) {
    const Unit& listed = manifest.units(i);
    same = state.units(i).name() == listed.name() && state.units(i).version() == listed.version();
  }
  if (!same) problems.add("the units of {} are not those that {} lists", kStateName, kManifestName);
}

std::uint64_t guest_address_of(const SnapshotManifest& manifest, std::uint64_t file_offset) {
  for (const MemoryRange& range : manifest.memory_layout()) {
    const std::uint64_t offset = file_offset - range.file_offset();
    if (file_offset >= range.file_offset() && offset < range.length()) return range.guest_address() + offset;
  }
  return 0;
}

Timestamp timestamp_now() {
  timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  Timestamp timestamp;
  timestamp.set_seconds(now.tv_sec);
  timestamp.set_nanos(static_cast<std::int32_t>(now.tv_nsec));
  return timestamp;
}

}  // namespace vmmd::snapshot
