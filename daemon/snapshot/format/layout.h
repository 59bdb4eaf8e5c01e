#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

// What a snapshot directory consists of, and the limits a reader applies before it allocates.
// docs/snapshot-format.md is the specification.
namespace vmmd::snapshot {

inline constexpr std::string_view kManifestName = "manifest.bin";
inline constexpr std::string_view kStateName = "state.bin";
inline constexpr std::string_view kMemoryName = "memory.bin";
inline constexpr std::string_view kDigestsName = "memory.digests";
inline constexpr std::string_view kConfigName = "config.json";

/// What lay above a device's file: "disk-<id>.bin", of an overlay in memory, and "pmem-<id>.bin", of
/// discarded writes.
[[nodiscard]] constexpr bool is_layer_name(std::string_view name) {
  constexpr std::string_view kSuffix = ".bin";
  constexpr std::size_t kPrefix = 5;  // bytes, both of them
  return name.size() > kPrefix + kSuffix.size() && (name.starts_with("disk-") || name.starts_with("pmem-")) &&
         name.ends_with(kSuffix);
}

/// Extended attribute of memory.bin: the snapshot's id. Best effort; a wrong one is refused at open.
inline constexpr const char* kIdAttribute = "user.vmmd.snapshot_id";

inline constexpr std::uint32_t kManifestVersion = 1;
inline constexpr std::string_view kArchitecture = "x86_64";
inline constexpr std::uint32_t kPageSize = 4096;                       // bytes
inline constexpr std::uint32_t kChunkSize = 2u * 1024 * 1024;          // bytes of memory.bin per digest
inline constexpr std::uint64_t kManifestLimit = 4ull * 1024 * 1024;    // bytes
inline constexpr std::uint64_t kStateLimit = 64ull * 1024 * 1024;      // bytes
inline constexpr std::uint64_t kConfigLimit = 1024ull * 1024;          // bytes
inline constexpr std::uint64_t kMemoryLimit = std::uint64_t{1} << 46;  // bytes: 64 TiB
inline constexpr std::uint32_t kVcpuLimit = 4096;
inline constexpr int kUnitLimit = 16384;
inline constexpr std::size_t kNameLimit = 255;  // bytes, of units, disk ids, features
inline constexpr int kRangeLimit = 1024;        // ranges of RAM
inline constexpr int kDiskLimit = 4096;
inline constexpr int kCpuidLimit = 4096;  // leaves
inline constexpr int kMsrLimit = 4096;
inline constexpr int kFileLimit = 64;
inline constexpr std::size_t kLabelLimit = 64;         // labels
inline constexpr std::size_t kLabelKeyLimit = 128;     // bytes
inline constexpr std::size_t kLabelValueLimit = 4096;  // bytes
inline constexpr std::size_t kTextLimit = 4096;        // bytes, of paths, versions, brand, ...

}  // namespace vmmd::snapshot
