#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/open.h"
#include "daemon/snapshot/format/staging.h"

namespace vmmd::snapshot::test {

inline constexpr std::uint64_t kMiB = 1024 * 1024;

/// A directory that goes away with the test.
class TempDir {
 public:
  TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir();
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path operator/(std::string_view name) const { return path_ / name; }
  /// Number of entries, hidden ones too.
  [[nodiscard]] std::size_t entries() const;

 private:
  std::filesystem::path path_;
};

/// What a test wants of a snapshot; the rest is a small VM with two ranges of RAM.
struct Sample {
  std::uint64_t memory_size = 5 * kMiB;  // not a whole number of chunks
  std::string config = R"({"cpus":{"boot_vcpus":2}})";
  std::string unit_value = "\x08\x2A";
  bool digests = true;
};

/// Where data ends in a sample's memory.bin, however large it is.
inline constexpr std::uint64_t kDataEnd = 6 * kMiB;

/// Bytes at `offset` that a sample's memory.bin holds: chunk 1 is a hole, all else below kDataEnd is data.
[[nodiscard]] std::byte sample_byte(std::uint64_t offset);

/// The manifest's part that the engine fills.
[[nodiscard]] SnapshotManifest sample_manifest(const Sample& sample = {});
/// A valid manifest, as a snapshot directory holds it.
[[nodiscard]] SnapshotManifest valid_manifest();
[[nodiscard]] state::SavedState sample_state(const Sample& sample = {});
/// Writes memory.bin through `staged` and returns everything for prepare().
[[nodiscard]] StagedSnapshot::Content sample_content(StagedSnapshot& staged, const Sample& sample = {});
/// begin, write, prepare, commit. Fails the test on an error.
void publish_sample(const std::filesystem::path& destination, const Sample& sample = {});

[[nodiscard]] std::string read_text(const std::filesystem::path& path);
void write_text(const std::filesystem::path& path, std::string_view content);
/// Inverts all bits of one byte in place.
void flip_byte(const std::filesystem::path& path, std::uint64_t offset);

/// Does any message of the error contain `part`?
[[nodiscard]] bool says(const Error& error, std::string_view part);

}  // namespace vmmd::snapshot::test
