#include "tests/unit/snapshot/fixture.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <vector>

#include <doctest/doctest.h>

#include "base/file.h"
#include "daemon/snapshot/format/digest.h"
#include "daemon/snapshot/format/manifest.h"

namespace vmmd::snapshot::test {

TempDir::TempDir() {
  // In memory where that is possible: there fsync, of which every snapshot needs seven, costs nothing.
  const std::filesystem::path memory = "/dev/shm";
  const bool usable = ::access(memory.c_str(), W_OK) == 0;
  std::string pattern =
      ((usable ? memory : std::filesystem::temp_directory_path()) / "vmmd-snapshot-XXXXXX").native();
  REQUIRE(::mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::size_t TempDir::entries() const {
  const auto begin = std::filesystem::directory_iterator(path_);
  return static_cast<std::size_t>(std::distance(begin, std::filesystem::directory_iterator()));
}

std::byte sample_byte(std::uint64_t offset) {
  if (offset / kChunkSize == 1 || offset >= kDataEnd) return std::byte{0};
  return static_cast<std::byte>((offset * 2654435761u) >> 13);
}

SnapshotManifest sample_manifest(const Sample& sample) {
  SnapshotManifest manifest;
  manifest.set_vmmd_version("0.1.0");
  manifest.set_memory_size_bytes(sample.memory_size);
  manifest.set_vp_count(2);
  manifest.set_capture_mode(CAPTURE_MODE_COPY);
  MemoryRange& low = *manifest.add_memory_layout();
  low.set_guest_address(0);
  low.set_length(3 * kMiB);
  MemoryRange& high = *manifest.add_memory_layout();
  high.set_guest_address(0x1'0000'0000);
  high.set_length(sample.memory_size - 3 * kMiB);
  high.set_file_offset(3 * kMiB);
  manifest.mutable_cpu()->set_vendor("GenuineIntel");
  manifest.mutable_cpu()->set_tsc_khz(2'100'000);
  Disk& disk = *manifest.add_disks();
  disk.set_id("disk0");
  disk.set_path("/images/root.img");
  disk.set_size_bytes(123456);
  (*manifest.mutable_labels())["owner"] = "ci";
  return manifest;
}

state::SavedState sample_state(const Sample& sample) {
  state::SavedState state;
  std::uint32_t version = 1;
  for (const char* name : {"vm", "vcpu0", "vcpu1", "serial0"}) {
    state::SavedUnit& unit = *state.add_units();
    unit.set_name(name);
    unit.set_version(version++);
    unit.mutable_state()->set_type_url("type.googleapis.com/vmmd.state.Test");
    unit.mutable_state()->set_value(sample.unit_value);
  }
  return state;
}

SnapshotManifest valid_manifest() {
  const TempDir dir;
  publish_sample(dir / "one");
  auto manifest = decode_manifest(read_text(dir / "one/manifest.bin"));
  REQUIRE(manifest);
  return std::move(*manifest);
}

StagedSnapshot::Content sample_content(StagedSnapshot& staged, const Sample& sample) {
  const auto memory = staged.create_file(kMemoryName);
  REQUIRE(memory);
  REQUIRE(::ftruncate(*memory, static_cast<off_t>(sample.memory_size)) == 0);
  MemoryDigests digests(sample.memory_size);
  for (std::uint64_t chunk = 0; chunk < digests.chunk_count(); ++chunk) {
    if (chunk == 1 || chunk * kChunkSize >= kDataEnd) continue;
    std::vector<std::byte> bytes(digests.chunk_length(chunk));
    for (std::uint64_t i = 0; i < bytes.size(); ++i) bytes[i] = sample_byte(chunk * kChunkSize + i);
    REQUIRE(write_all_at(*memory, bytes, chunk * kChunkSize, "memory.bin"));
    digests.add(chunk, bytes);
  }
  StagedSnapshot::Content content;
  content.manifest = sample_manifest(sample);
  content.state = sample_state(sample);
  content.config = sample.config;
  if (sample.digests) content.digests = std::move(digests);
  return content;
}

void publish_sample(const std::filesystem::path& destination, const Sample& sample) {
  auto staged = StagedSnapshot::begin(destination);
  REQUIRE_MESSAGE(staged, staged.error().to_string());
  const Status prepared = staged->prepare(sample_content(*staged, sample));
  REQUIRE_MESSAGE(prepared, prepared.error().to_string());
  const Status committed = staged->commit();
  REQUIRE_MESSAGE(committed, committed.error().to_string());
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_text(const std::filesystem::path& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  file.flush();
  REQUIRE(file);
}

void flip_byte(const std::filesystem::path& path, std::uint64_t offset) {
  auto fd = open_file(path, O_RDWR);
  REQUIRE(fd);
  std::byte byte = {};
  REQUIRE(read_exact_at(fd->get(), std::span(&byte, 1), offset, path.native()));
  byte = ~byte;
  REQUIRE(write_all_at(fd->get(), std::span(&byte, 1), offset, path.native()));
}

bool says(const Error& error, std::string_view part) {
  return std::any_of(error.messages.begin(), error.messages.end(),
                     [&](const std::string& message) { return message.find(part) != std::string::npos; });
}

}  // namespace vmmd::snapshot::test
