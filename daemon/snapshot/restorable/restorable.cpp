#include "daemon/snapshot/restorable/restorable.h"

#include <fcntl.h>

#include <cerrno>
#include <set>
#include <utility>

#include "api/config_json.h"
#include "api/disk_paths.h"
#include "api/disk_source.h"
#include "api/net_fds.h"
#include "api/overrides.h"
#include "base/file.h"
#include "daemon/snapshot/restorable/unit_names.h"

namespace vmmd::snapshot {

namespace {

using MemoryMode = api::RestoreRequest::MemoryMode;

void check_request(const api::RestoreRequest& request, const SnapshotManifest& manifest, Problems& problems) {
  using enum api::RestoreRequest::Verify;
  if (request.memory_size && *request.memory_size != manifest.memory_size_bytes()) {
    problems.add("memory size {} was asked for, the snapshot has {} bytes", *request.memory_size,
                 manifest.memory_size_bytes());
  }
  if (request.vcpus && *request.vcpus != manifest.vp_count()) {
    problems.add("{} vCPUs were asked for, the snapshot has {}", *request.vcpus, manifest.vp_count());
  }
  if (request.verify != None && manifest.memory_chunk_size() == 0) {
    problems.add(
        "the snapshot has no digests of its memory, so it cannot be verified: link and reflink snapshots get "
        "them in the background, or by `vmm-remote snapshot digest`; use verify=none");
  }
  if (request.verify == Lazy && request.memory_mode == MemoryMode::Shared) {
    problems.add(
        "verify=lazy is not possible with mode shared, where the guest changes what is to be read: use full");
  }
}

void check_config(const api::VmConfig& config, const SnapshotManifest& manifest, Problems& problems) {
  if (config.memory.size != manifest.memory_size_bytes()) {
    problems.add("config.json says {} bytes of memory, the manifest {}", config.memory.size,
                 manifest.memory_size_bytes());
  }
  if (config.cpus.boot_vcpus != manifest.vp_count()) {
    problems.add("config.json says {} vCPUs, the manifest {}", config.cpus.boot_vcpus, manifest.vp_count());
  }
}

// Our address map is fixed by the size, so a snapshot of ours always has it; another one cannot be mapped.
std::vector<memory::RamRange> check_layout(const api::VmConfig& config, const SnapshotManifest& manifest,
                                           Problems& problems) {
  auto layout = memory::ram_layout(manifest.memory_size_bytes(), config.cpus.max_phys_bits);
  if (!layout) {
    problems.add(layout.error());
    return {};
  }
  bool same = manifest.memory_layout_size() == static_cast<int>(layout->size());
  for (int i = 0; same && i < manifest.memory_layout_size(); ++i) {
    const MemoryRange& saved = manifest.memory_layout(i);
    const memory::RamRange& ours = layout->at(static_cast<std::size_t>(i));
    same = saved.guest_address() == ours.start.value && saved.length() == ours.size &&
           saved.file_offset() == ours.file_offset;
  }
  if (!same) problems.add("the snapshot's memory layout is not one that this vmmd can map");
  return std::move(*layout);
}

// A feature that the host lacks is found without a machine; see MachineChecks for the TSC.
void check_features(const SnapshotManifest& manifest, const HostFacts& host, Problems& problems,
                    std::vector<std::string>& notes) {
  const auto cpuid = host.cpuid();
  if (!cpuid) {
    notes.push_back(fmt::format("CPU features were not checked: {}", cpuid.error().to_string()));
  } else if (const auto problem = feature_problem(manifest.cpu(), *cpuid)) {
    problems.add("{}", *problem);
  }
}

void check_tsc(const SnapshotManifest& manifest, const HostFacts& host, Problems& problems,
               std::vector<std::string>& notes) {
  const auto tsc = host.tsc();
  if (!tsc) {
    notes.push_back(fmt::format("the TSC's frequency was not checked: {}", tsc.error().to_string()));
  } else if (const auto problem = tsc_problem(manifest.cpu().tsc_khz(), *tsc)) {
    problems.add("{}", *problem);
  }
}

// Under copy-on-write, and shared, RAM is mapped from memory.bin, whatever is asked for: say so, rather than
// show what is not.
void check_memory_backing(const api::RestoreRequest& request, std::string_view sealed,
                          const api::VmConfig& config, std::vector<std::string>& found) {
  if (request.memory_mode == MemoryMode::Copy || request.overrides.empty()) return;
  const auto before = api::parse_vm_config(sealed);
  if (!before) return;  // told where the overrides were applied
  const auto refuse = [&](std::string_view field, bool differs) {
    if (!differs) return;
    found.push_back(
        fmt::format("overrides: /memory/{} has no effect unless memory is copied into memory of its own: add "
                    "memory_restore_mode copy, or leave it out",
                    field));
  };
  refuse("file", config.memory.file.has_value());  // of the clone: the sealed one was dropped
  refuse("shared", config.memory.shared != before->memory.shared);
  refuse("hugepages", config.memory.hugepages != before->memory.hugepages);
  refuse("hugepage_size", config.memory.hugepage_size != before->memory.hugepage_size);
}

// As the host side of the machine will want them: each has its device, and each device that needs one has it.
void check_layers(const SnapshotManifest& manifest, const api::VmConfig& config, Problems& problems) {
  std::set<std::string> wanted;
  for (const auto& disk : config.disks) {
    if (api::disk_source(disk).memory_overlay)
      wanted.insert(fmt::format("disk-{}.bin", disk.pci.id.value_or("")));
  }
  for (const auto& pmem : config.pmem) {
    if (pmem.discard_writes) wanted.insert(fmt::format("pmem-{}.bin", pmem.pci.id.value_or("")));
  }
  for (const File& file : manifest.files()) {
    if (!is_layer_name(file.name()) || wanted.erase(file.name()) != 0) continue;
    problems.add(
        "the snapshot has {}, and no device takes it: a disk with overlay = memory stays one, and so does a "
        "pmem with discard_writes",
        shown(file.name()));
  }
  for (const std::string& name : wanted) {
    problems.add(
        "the snapshot has no {}: the device had no overlay = memory (or discard_writes) when it was taken",
        shown(name));
  }
}

void check_units(const state::SavedState& state, const api::VmConfig& config, Problems& problems) {
  const std::set<std::string> names = unit_names(config);
  for (const state::SavedUnit& unit : state.units()) {
    if (!names.contains(unit.name()))
      problems.add("unit {} is in the snapshot, but the machine has no such unit", shown(unit.name()));
  }
}

Result<UniqueFd> open_kvm() {
  auto kvm = open_file("/dev/kvm", O_RDWR);
  if (!kvm) return fail(ErrorCode::NotSupported, "cannot open /dev/kvm: {}", kvm.error().to_string());
  return kvm;
}

}  // namespace

Result<std::vector<kvm_cpuid_entry2>> ThisHost::cpuid() const {
  VMMD_ASSIGN(const UniqueFd kvm, open_kvm());
  return supported_cpuid(kvm.get());
}

Result<HostTsc> ThisHost::tsc() const {
  VMMD_ASSIGN(const UniqueFd kvm, open_kvm());
  return host_tsc(kvm.get());
}

std::vector<DiskFile> disk_files(const api::VmConfig& config) {
  std::vector<DiskFile> files;
  for (const api::DiskPath& disk : api::disk_paths(config))
    files.push_back({disk.id, disk.path, disk.role, disk.readonly});
  return files;
}

std::optional<Restorable> examine(const std::filesystem::path& source, const api::RestoreRequest& request,
                                  const HostFacts& host, MachineChecks machine_checks, Problems& problems,
                                  std::vector<std::string>& notes) {
  auto snapshot =
      inspect_snapshot(source, {.writable_memory = request.memory_mode == MemoryMode::Shared}, problems);
  if (!snapshot) return std::nullopt;
  Restorable found{std::move(*snapshot), {}, {}};
  const SnapshotManifest& manifest = found.snapshot.manifest;
  const bool strict = request.cpu_check == api::RestoreRequest::CpuCheck::Strict;
  check_request(request, manifest, problems);
  if (strict) check_features(manifest, host, problems, notes);
  std::optional<api::VmConfig> config;
  if (!found.snapshot.config.empty()) {
    auto restored = api::restored_config(found.snapshot.config, request.overrides);
    if (restored) {
      config = std::move(*restored);
      if (auto taps = api::replace_taps(*config, api::fd_places(request)); !taps) problems.add(taps.error());
      check_config(*config, manifest, problems);
      found.layout = check_layout(*config, manifest, problems);
      std::vector<std::string> idle;
      check_memory_backing(request, found.snapshot.config, *config, idle);
      for (std::string& text : idle) {
        // Who only asks has not said how memory will be restored.
        if (machine_checks == MachineChecks::Always) {
          notes.push_back(std::move(text));
        } else {
          problems.add("{}", text);
        }
      }
      check_layers(manifest, *config, problems);
      check_disks(manifest, disk_files(*config), api::overridden_disk_paths(request.overrides), problems);
    } else {
      problems.add(restored.error());
    }
  }
  if (machine_checks == MachineChecks::Always || !problems.empty()) {
    if (strict) check_tsc(manifest, host, problems, notes);
    if (config) check_units(found.snapshot.state, *config, problems);
  }
  if (config) found.config = std::move(*config);
  return found;
}

}  // namespace vmmd::snapshot
