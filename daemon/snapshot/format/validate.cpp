#include <cstdint>
#include <set>

#include "base/printable.h"
#include "base/uuid.h"
#include "daemon/snapshot/format/digest.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/manifest.h"

// validate_manifest(), one function per part. The rules are numbered in docs/snapshot-format.md.
namespace vmmd::snapshot {
namespace {

constexpr std::uint64_t kGuestAddressLimit = std::uint64_t{1} << 52;  // x86-64's architectural maximum
constexpr std::int64_t kLastSecond = 253'402'300'799;                 // 9999-12-31, as Timestamp's own limit

/// Names are compared, listed and printed: not empty, bounded, without control characters.
bool is_name(std::string_view name) {
  return !name.empty() && name.size() <= kNameLimit && !has_control_characters(name);
}

bool is_file_name(std::string_view name) {
  return is_name(name) && name != "." && name != ".." && name.find('/') == std::string_view::npos;
}

void check_text(std::string_view what, std::string_view text, Problems& problems) {
  if (text.size() > kTextLimit) {
    problems.add("{} has {} bytes; at most {} are allowed", what, text.size(), kTextLimit);
  }
}

void check_count(std::string_view what, int count, int limit, Problems& problems) {
  if (count > limit) problems.add("{} {}; at most {} are allowed", count, what, limit);
}

void check_time(std::string_view what, const Timestamp& time, Problems& problems) {
  if (time.seconds() < 0 || time.seconds() > kLastSecond || time.nanos() < 0 || time.nanos() > 999'999'999) {
    problems.add("{} is no time between 1970 and 9999", what);
  }
}

void check_identity(const SnapshotManifest& manifest, Problems& problems) {
  const auto is_id = [](const std::string& text) {
    const auto id = Uuid::parse(text);
    return id && id->to_string() == text;
  };
  if (!is_id(manifest.snapshot_id())) problems.add("snapshot_id is not a UUID in lower case");
  if (manifest.kind() != KIND_FULL) {
    problems.add("the snapshot is of kind {}; this vmmd knows full snapshots ({}) only",
                 static_cast<int>(manifest.kind()), static_cast<int>(KIND_FULL));
  } else if (!manifest.parent_id().empty()) {
    problems.add("a full snapshot has no parent_id");
  }
  check_time("created_at", manifest.created_at(), problems);
  if (manifest.has_config_sealed_at()) check_time("config_sealed_at", manifest.config_sealed_at(), problems);
  if (manifest.has_consumed()) {
    check_time("consumed.at", manifest.consumed().at(), problems);
    check_text("consumed.by", manifest.consumed().by(), problems);
  }
  check_text("vmmd_version", manifest.vmmd_version(), problems);
  check_text("vmmd_build", manifest.vmmd_build(), problems);
  check_text("host_kernel", manifest.host_kernel(), problems);
}

void check_machine(const SnapshotManifest& manifest, Problems& problems) {
  if (manifest.architecture() != kArchitecture) {
    problems.add("the snapshot is of architecture \"{}\"; this vmmd runs {}", shown(manifest.architecture()),
                 kArchitecture);
  }
  if (manifest.page_size() != kPageSize) {
    problems.add("the snapshot has pages of {} bytes; this vmmd has {}", manifest.page_size(), kPageSize);
  }
  if (manifest.vp_count() < 1 || manifest.vp_count() > kVcpuLimit) {
    problems.add("the snapshot has {} vCPUs; 1 to {} are allowed", manifest.vp_count(), kVcpuLimit);
  }
  const CpuIdentity& cpu = manifest.cpu();
  check_text("cpu.vendor", cpu.vendor(), problems);
  check_text("cpu.brand", cpu.brand(), problems);
  check_count("CPUID leaves", cpu.cpuid_size(), kCpuidLimit, problems);
  check_count("MSR indices", cpu.msr_indices_size(), kMsrLimit, problems);
}

void check_memory(const SnapshotManifest& manifest, Problems& problems) {
  const std::uint64_t size = manifest.memory_size_bytes();
  if (size == 0 || size % kPageSize != 0 || size > kMemoryLimit) {
    problems.add("memory_size_bytes is {}: not a multiple of {} between {} and {}", size, kPageSize,
                 kPageSize, kMemoryLimit);
    return;
  }
  check_count("ranges of memory", manifest.memory_layout_size(), kRangeLimit, problems);
  std::uint64_t next_address = 0;
  std::uint64_t next_offset = 0;
  for (const MemoryRange& range : manifest.memory_layout()) {
    const std::uint64_t start = range.guest_address();
    const std::uint64_t length = range.length();
    // Lengths and starts are bounded first, so that no sum below can wrap.
    if (length == 0 || length > size || start >= kGuestAddressLimit || start + length > kGuestAddressLimit ||
        start % kPageSize != 0 || length % kPageSize != 0) {
      problems.add("memory range {:#x} + {:#x} is empty, not in whole pages, or too large", start, length);
      return;
    }
    if (start < next_address) {
      problems.add("memory range {:#x} + {:#x} lies before the end of the one before it", start, length);
      return;
    }
    if (range.file_offset() != next_offset) {
      problems.add(
          "memory range {:#x} + {:#x} is at offset {:#x} of {}, not at {:#x} after the one before it", start,
          length, range.file_offset(), kMemoryName, next_offset);
      return;
    }
    next_address = start + length;
    next_offset += length;
    if (next_offset > size) break;
  }
  if (next_offset != size) {
    problems.add("the memory ranges do not add up to the {} bytes of memory_size_bytes", size);
  }
}

struct FileRule {
  std::string_view name;
  std::uint64_t limit;  // bytes
  bool digest;
};
constexpr FileRule kFileRules[] = {
    {kStateName, kStateLimit, true},
    {kConfigName, kConfigLimit, true},
    {kMemoryName, kMemoryLimit, false},
    {kDigestsName, kMemoryLimit / kChunkSize* Digest::kSize, true},
};

void check_files(const SnapshotManifest& manifest, Problems& problems) {
  check_count("files", manifest.files_size(), kFileLimit, problems);
  std::set<std::string_view> names;
  for (const File& file : manifest.files()) {
    if (!is_file_name(file.name())) problems.add("\"{}\" is no file name", shown(file.name()));
    if (!names.insert(file.name()).second) problems.add("{} is listed more than once", shown(file.name()));
    if (!is_layer_name(file.name())) continue;
    if (file.length() > kMemoryLimit)
      problems.add("{} has {} bytes; at most {} are allowed", shown(file.name()), file.length(),
                   kMemoryLimit);
    if (file.digest().size() != Digest::kSize)
      problems.add("the digest of {} has {} bytes", shown(file.name()), file.digest().size());
  }
  for (const FileRule& rule : kFileRules) {
    const File* file = find_file(manifest, rule.name);
    if (file == nullptr) {
      if (rule.name != kDigestsName) problems.add("{} does not list {}", kManifestName, rule.name);
      continue;
    }
    if (file->length() > rule.limit) {
      problems.add("{} has {} bytes; at most {} are allowed", rule.name, file->length(), rule.limit);
    }
    if (file->digest().size() != (rule.digest ? Digest::kSize : 0)) {
      problems.add("the digest of {} has {} bytes", rule.name, file->digest().size());
    }
  }
  const std::uint64_t size = manifest.memory_size_bytes();
  const File* memory = find_file(manifest, kMemoryName);
  if (memory != nullptr && memory->length() != size) {
    problems.add("{} is listed with {} bytes, but memory_size_bytes is {}", kMemoryName, memory->length(),
                 size);
  }
  const File* digests = find_file(manifest, kDigestsName);
  const std::uint32_t chunk = manifest.memory_chunk_size();
  if (chunk != (digests == nullptr ? 0 : kChunkSize)) {
    problems.add("memory_chunk_size is {} {} {}", chunk, digests == nullptr ? "without" : "with",
                 kDigestsName);
  } else if (digests != nullptr && size <= kMemoryLimit &&
             digests->length() != (size + kChunkSize - 1) / kChunkSize * Digest::kSize) {
    problems.add("{} has {} bytes, which does not fit {} bytes of memory", kDigestsName, digests->length(),
                 size);
  }
  const File* config = find_file(manifest, kConfigName);
  if (config != nullptr && Digest::of(manifest.config()).to_bytes() != config->digest()) {
    problems.add("the copy of {} in {} does not have the digest listed for it", kConfigName, kManifestName);
  }
}

void check_lists(const SnapshotManifest& manifest, Problems& problems) {
  check_count("disks", manifest.disks_size(), kDiskLimit, problems);
  std::set<std::string_view> disks;
  for (const Disk& disk : manifest.disks()) {
    if (!is_name(disk.id())) problems.add("a disk has an id that is no name");
    if (!disks.insert(disk.id()).second)
      problems.add("disk \"{}\" is listed more than once", shown(disk.id()));
    check_text("a disk's path", disk.path(), problems);
    check_text("a disk's role", disk.role(), problems);
  }
  check_count("units", manifest.units_size(), kUnitLimit, problems);
  std::set<std::string_view> units;
  for (const Unit& unit : manifest.units()) {
    if (!is_name(unit.name())) problems.add("a unit has a name that is none");
    if (!units.insert(unit.name()).second) {
      problems.add("unit \"{}\" is listed more than once", shown(unit.name()));
    }
  }
  if (manifest.labels().size() > kLabelLimit) {
    problems.add("{} labels; at most {} are allowed", manifest.labels().size(), kLabelLimit);
  }
  for (const auto& [key, value] : manifest.labels()) {
    if (!is_name(key) || key.size() > kLabelKeyLimit) {
      problems.add("a label's key is empty, longer than {} bytes, or has control characters", kLabelKeyLimit);
    }
    if (value.size() > kLabelValueLimit) {
      problems.add("the label \"{}\" has {} bytes; at most {} are allowed", shown(key), value.size(),
                   kLabelValueLimit);
    }
  }
}

}  // namespace

void validate_manifest(const SnapshotManifest& manifest, Problems& problems) {
  // Another version may mean anything by the other fields.
  if (manifest.version() != kManifestVersion) {
    problems.add("the snapshot has format version {}; this vmmd reads version {}", manifest.version(),
                 kManifestVersion);
    return;
  }
  for (const std::string& feature : manifest.required_features()) {
    problems.add("the snapshot needs \"{}\", which this vmmd does not know: use a newer one", shown(feature));
  }
  check_identity(manifest, problems);
  check_machine(manifest, problems);
  check_memory(manifest, problems);
  check_files(manifest, problems);
  check_lists(manifest, problems);
}

}  // namespace vmmd::snapshot
