#include "remote/describe.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/printable.h"
#include "daemon/snapshot/format/digest.h"
#include "daemon/snapshot/format/problems.h"
#include "remote/table.h"

namespace vmmd::remote {

using nlohmann::ordered_json;
using snapshot::shown;
using snapshot::SnapshotDescription;
using snapshot::SnapshotManifest;

namespace {

std::string_view capture_name(snapshot::CaptureMode mode) {
  switch (mode) {
    case snapshot::CAPTURE_MODE_COPY:
      return "copy";
    case snapshot::CAPTURE_MODE_LINK:
      return "link";
    case snapshot::CAPTURE_MODE_REFLINK:
      return "reflink";
    case snapshot::CAPTURE_MODE_LIVE:
      return "live";
    default:
      return "unknown";
  }
}

std::string_view kind_name(snapshot::Kind kind) {
  return kind == snapshot::KIND_FULL ? "full" : kind == snapshot::KIND_DIFF ? "diff" : "unknown";
}

/// Can anything of it be told?
bool has_manifest(const SnapshotDescription& snapshot) {
  return snapshot.manifest.version() != 0;
}

/// Sorted: protobuf's maps have no order.
std::map<std::string, std::string> labels_of(const SnapshotManifest& manifest) {
  return {manifest.labels().begin(), manifest.labels().end()};
}

std::string labels_text(const SnapshotManifest& manifest) {
  std::vector<std::string> texts;
  for (const auto& [name, value] : labels_of(manifest)) {
    texts.push_back(fmt::format("{}={}", shown(name), shown(value)));
  }
  return fmt::format("{}", fmt::join(texts, ","));
}

std::string digest_text(const std::string& bytes) {
  const auto digest = snapshot::Digest::from_bytes(bytes);
  return digest ? digest->to_hex() : "";
}

ordered_json cpu_json(const snapshot::CpuIdentity& cpu) {
  ordered_json out;
  out["vendor"] = cpu.vendor();
  out["family"] = cpu.family();
  out["model"] = cpu.model();
  out["stepping"] = cpu.stepping();
  out["brand"] = cpu.brand();
  out["xcr0"] = cpu.xcr0();
  out["tsc_khz"] = cpu.tsc_khz();
  out["cpuid"] = ordered_json::array();
  for (const auto& leaf : cpu.cpuid()) {
    out["cpuid"].push_back({{"function", leaf.function()},
                            {"index", leaf.index()},
                            {"flags", leaf.flags()},
                            {"eax", leaf.eax()},
                            {"ebx", leaf.ebx()},
                            {"ecx", leaf.ecx()},
                            {"edx", leaf.edx()}});
  }
  out["msr_indices"] = std::vector<std::uint32_t>(cpu.msr_indices().begin(), cpu.msr_indices().end());
  return out;
}

}  // namespace

ordered_json summary_json(const SnapshotDescription& snapshot) {
  const SnapshotManifest& manifest = snapshot.manifest;
  ordered_json out;
  out["name"] = snapshot.name;
  out["path"] = snapshot.path.native();
  out["state"] = to_string(snapshot.state);
  out["size_on_disk_bytes"] = snapshot.size_on_disk;
  out["problems"] = snapshot.problems;
  if (!has_manifest(snapshot)) return out;
  out["snapshot_id"] = manifest.snapshot_id();
  out["created_at"] = format_time(manifest.created_at().seconds());
  out["memory_size_bytes"] = manifest.memory_size_bytes();
  out["vcpus"] = manifest.vp_count();
  out["labels"] = labels_of(manifest);
  return out;
}

ordered_json details_json(const SnapshotDescription& snapshot) {
  const SnapshotManifest& manifest = snapshot.manifest;
  ordered_json out = summary_json(snapshot);
  if (!has_manifest(snapshot)) return out;
  out["version"] = manifest.version();
  out["kind"] = kind_name(manifest.kind());
  if (!manifest.parent_id().empty()) out["parent_id"] = manifest.parent_id();
  out["capture_mode"] = capture_name(manifest.capture_mode());
  out["architecture"] = manifest.architecture();
  out["page_size"] = manifest.page_size();
  out["vmmd_version"] = manifest.vmmd_version();
  out["vmmd_build"] = manifest.vmmd_build();
  out["host_kernel"] = manifest.host_kernel();
  out["memory_layout"] = ordered_json::array();
  for (const auto& range : manifest.memory_layout()) {
    out["memory_layout"].push_back({{"guest_address", range.guest_address()},
                                    {"length", range.length()},
                                    {"file_offset", range.file_offset()}});
  }
  out["memory_chunk_size"] = manifest.memory_chunk_size();
  out["cpu"] = cpu_json(manifest.cpu());
  out["files"] = ordered_json::array();
  for (const auto& file : manifest.files()) {
    out["files"].push_back(
        {{"name", file.name()}, {"length", file.length()}, {"xxh3_128", digest_text(file.digest())}});
  }
  out["disks"] = ordered_json::array();
  for (const auto& disk : manifest.disks()) {
    out["disks"].push_back({{"id", disk.id()},
                            {"path", disk.path()},
                            {"size_bytes", disk.size_bytes()},
                            {"mtime_ns", disk.mtime_ns()},
                            {"role", disk.role()},
                            {"readonly", disk.readonly()}});
  }
  out["units"] = ordered_json::array();
  for (const auto& unit : manifest.units()) {
    out["units"].push_back({{"name", unit.name()}, {"version", unit.version()}});
  }
  // As last sealed: what a restore takes, unless config.json has been edited since.
  auto config = ordered_json::parse(manifest.config(), nullptr, false);
  if (!config.is_discarded()) out["config"] = std::move(config);
  out["required_features"] =
      std::vector<std::string>(manifest.required_features().begin(), manifest.required_features().end());
  if (manifest.has_config_sealed_at()) {
    out["config_sealed_at"] = format_time(manifest.config_sealed_at().seconds());
  }
  if (manifest.has_consumed()) {
    out["consumed"] = {{"at", format_time(manifest.consumed().at().seconds())},
                       {"by", manifest.consumed().by()}};
  }
  return out;
}

std::string list_text(const std::vector<SnapshotDescription>& snapshots, std::int64_t now) {
  std::vector<std::vector<std::string>> rows = {{"NAME", "AGE", "RAM", "ON DISK", "CPUS", "STATE", "LABELS"}};
  for (const SnapshotDescription& snapshot : snapshots) {
    const SnapshotManifest& manifest = snapshot.manifest;
    const bool known = has_manifest(snapshot);
    rows.push_back({shown(snapshot.name), known ? format_age(now - manifest.created_at().seconds()) : "?",
                    known ? format_size(manifest.memory_size_bytes()) : "?",
                    format_size(snapshot.size_on_disk), known ? fmt::to_string(manifest.vp_count()) : "?",
                    std::string(to_string(snapshot.state)), labels_text(manifest)});
  }
  std::string text = format_table(rows);
  for (const SnapshotDescription& snapshot : snapshots) {
    if (snapshot.state != snapshot::SnapshotState::Unreadable) continue;
    for (const std::string& problem : snapshot.problems)
      text += fmt::format("{}: {}\n", shown(snapshot.name), printable(problem));
  }
  return text;
}

std::string details_text(const SnapshotDescription& snapshot) {
  const SnapshotManifest& manifest = snapshot.manifest;
  std::vector<std::vector<std::string>> rows;
  const auto add = [&rows](std::string name, std::string value) {
    if (!value.empty()) rows.push_back({std::move(name), std::move(value)});
  };
  add("Path:", printable(snapshot.path.native()));
  add("State:", std::string(to_string(snapshot.state)));
  for (const std::string& problem : snapshot.problems) add("Problem:", printable(problem));
  add("On disk:", format_size(snapshot.size_on_disk));
  if (!has_manifest(snapshot)) return format_table(rows);
  add("Id:", shown(manifest.snapshot_id()));
  add("Created:", format_time(manifest.created_at().seconds()));
  if (manifest.has_consumed()) {
    add("Consumed:", fmt::format("{} by {}", format_time(manifest.consumed().at().seconds()),
                                 shown(manifest.consumed().by())));
  }
  if (manifest.has_config_sealed_at()) {
    add("Edited:", format_time(manifest.config_sealed_at().seconds()));
  }
  for (const auto& [name, value] : labels_of(manifest)) {
    add("Label:", fmt::format("{}={}", shown(name), shown(value)));
  }
  add("Kind:",
      fmt::format("{}, captured by {}", kind_name(manifest.kind()), capture_name(manifest.capture_mode())));
  add("RAM:", format_size(manifest.memory_size_bytes()));
  for (const auto& range : manifest.memory_layout()) {
    add("", fmt::format("{:#x}, {} at {:#x} of memory.bin", range.guest_address(),
                        format_size(range.length()), range.file_offset()));
  }
  add("Digests:", manifest.memory_chunk_size() == 0
                      ? "none of memory yet: `snapshot digest` records them"
                      : fmt::format("of every {}", format_size(manifest.memory_chunk_size())));
  const auto& cpu = manifest.cpu();
  add("CPUs:", fmt::to_string(manifest.vp_count()));
  add("CPU:", fmt::format("{} ({} family {} model {} stepping {})", shown(cpu.brand()), shown(cpu.vendor()),
                          cpu.family(), cpu.model(), cpu.stepping()));
  add("TSC:", cpu.tsc_khz() == 0 ? "" : fmt::format("{} kHz", cpu.tsc_khz()));
  for (const auto& file : manifest.files()) {
    add("File:",
        fmt::format("{}, {} {}", shown(file.name()), format_size(file.length()), digest_text(file.digest())));
  }
  for (const auto& disk : manifest.disks()) {
    add("Disk:",
        fmt::format("{}: {}, {}", shown(disk.id()), printable(disk.path()), format_size(disk.size_bytes())));
  }
  std::vector<std::string> units;
  for (const auto& unit : manifest.units()) units.push_back(shown(unit.name()));
  add("Units:", fmt::format("{}", fmt::join(units, " ")));
  add("Taken by:", shown(manifest.vmmd_build()));
  add("Host:", fmt::format("Linux {}, {}", shown(manifest.host_kernel()), shown(manifest.architecture())));
  return format_table(rows);
}

}  // namespace vmmd::remote
