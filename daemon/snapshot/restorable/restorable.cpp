#include "daemon/snapshot/restorable/restorable.h"

#include <fcntl.h>

#include <set>
#include <string_view>
#include <utility>

#include "api/config_json.h"
#include "api/disk_paths.h"
#include "api/disk_source.h"
#include "api/net_fds.h"
#include "api/overrides.h"
#include "base/file.h"
#include "base/printable.h"
#include "daemon/snapshot/format/inside.h"
#include "daemon/snapshot/restorable/unit_names.h"
#include "devices/storage/image_lock.h"

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

/// The checks of one request, and where what they find goes.
class Examination {
 public:
  Examination(const api::RestoreRequest& request, const HostFacts& host, MachineChecks machine_checks,
              Problems& problems, std::vector<std::string>& notes)
      : request_(request),
        host_(host),
        asks_(machine_checks == MachineChecks::Always),
        problems_(problems),
        notes_(notes) {}

  std::optional<Restorable> run(const std::filesystem::path& source) {
    auto snapshot =
        inspect_snapshot(source, {.writable_memory = request_.memory_mode == MemoryMode::Shared}, problems_);
    if (!snapshot) return std::nullopt;
    Restorable found{std::move(*snapshot), {}, {}};
    const SnapshotManifest& manifest = found.snapshot.manifest;
    const bool strict = request_.cpu_check == api::RestoreRequest::CpuCheck::Strict;
    check_request(request_, manifest, problems_);
    if (strict) check_cpu(manifest);
    // As it was sealed, so that an edited or lost one does not keep the rest from being said.
    std::vector<api::ConfigProblem> told;
    auto config = api::restored_config(manifest.config(), request_.overrides, told);
    for (const api::ConfigProblem& problem : told) problems_.add("{}", problem.text);
    std::vector<DiskFile> files;
    if (config) {
      check_networks(*config);
      check_config(*config, manifest, problems_);
      found.layout = check_layout(*config, manifest, problems_);
      check_memory_backing(*config, manifest.config());
      check_layers(manifest, *config, problems_);
      files = files_to_compare(*config, told);
      check_disks(manifest, files, api::overridden_disk_paths(request_.overrides), problems_);
    }
    if (asks_ || !problems_.empty()) {
      if (strict) check_tsc(manifest);
      if (config) check_units(found.snapshot.state, *config, problems_);
      check_memory_lock(found.snapshot);
      for (const DiskFile& file : files) check_disk_lock(file);
    }
    if (config) found.config = std::move(*config);
    return found;
  }

 private:
  // Found without a machine; see MachineChecks for the TSC.
  void check_cpu(const SnapshotManifest& manifest) {
    const auto cpuid = host_.cpuid();
    if (!cpuid) {
      notes_.push_back(fmt::format("the CPU was not checked: {}", cpuid.error().to_string()));
      return;
    }
    const CpuIdentity& guest = manifest.cpu();
    for (const auto& problem : {vendor_problem(guest, *cpuid), feature_problem(guest, *cpuid)}) {
      if (problem) problems_.add("{}", *problem);
    }
  }

  void check_tsc(const SnapshotManifest& manifest) {
    const auto tsc = host_.tsc();
    if (!tsc) {
      notes_.push_back(fmt::format("the TSC's frequency was not checked: {}", tsc.error().to_string()));
    } else if (const auto problem = tsc_problem(manifest.cpu().tsc_khz(), *tsc)) {
      problems_.add("{}", *problem);
    }
  }

  void check_networks(api::VmConfig& config) {
    const auto places = api::fd_places(request_);
    if (auto taps = api::replace_taps(config, places); !taps) problems_.add(taps.error());
    for (const std::string& id : api::networks_without_taps(config, places)) {
      if (asks_) {
        notes_.push_back(fmt::format("network \"{}\" gets its taps with the restore: see net_fds", id));
      } else {
        problems_.add(
            "the taps of network \"{}\" were descriptors: pass new ones with net_fds, or override its tap or "
            "passt",
            id);
      }
    }
  }

  // Under copy-on-write, and shared, RAM is mapped from memory.bin, whatever is asked for: say so, rather
  // than show what is not.
  void check_memory_backing(const api::VmConfig& config, std::string_view sealed) {
    if (request_.memory_mode == MemoryMode::Copy || request_.overrides.empty()) return;
    const auto before = api::parse_vm_config(sealed);
    if (!before) return;  // told where the overrides were applied
    const auto refuse = [&](std::string_view field, bool differs) {
      if (!differs) return;
      std::string text = fmt::format(
          "overrides: /memory/{} has no effect unless memory is copied into memory of its own: add "
          "memory_restore_mode copy, or leave it out",
          field);
      if (asks_) {
        notes_.push_back(std::move(text));
      } else {
        problems_.add("{}", text);
      }
    };
    refuse("file", config.memory.file.has_value());  // of the clone: the sealed one was dropped
    refuse("shared", config.memory.shared != before->memory.shared);
    refuse("hugepages", config.memory.hugepages != before->memory.hugepages);
    refuse("hugepage_size", config.memory.hugepage_size != before->memory.hugepage_size);
  }

  void check_memory_lock(const OpenSnapshot& snapshot) {
    if (!snapshot.memory) return;
    const bool shared = request_.memory_mode == MemoryMode::Shared;
    const auto taken = [&] {
      Status free = probe_memory_lock(snapshot, MemoryLock::Exclusive);
      return free ? ChangeLock::probe(snapshot.directory.get(), snapshot.path.native()) : free;
    };
    Status free = shared ? taken() : probe_memory_lock(snapshot, MemoryLock::Shared);
    if (!free) {
      problems_.add(free.error());
    } else if (asks_ && !shared) {
      free = taken();
      if (!free)
        notes_.push_back(
            fmt::format("memory_restore_mode shared would be refused: {}", free.error().to_string()));
    }
  }

  void check_disk_lock(const DiskFile& file) {
    const auto fd = open_file(file.path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (!fd) return;  // told already, or a layer that is yet to be made
    if (auto free = devices::probe_image_lock(fd->get(), printable(file.path), file.readonly); !free)
      problems_.add("disk {}: {}", shown(file.id), free.error().to_string());
  }

  // All but those that the configuration's own checks told of: they said what is wrong with the file.
  static std::vector<DiskFile> files_to_compare(const api::VmConfig& config,
                                                const std::vector<api::ConfigProblem>& told) {
    std::set<std::string_view> pointers;
    for (const api::ConfigProblem& problem : told) pointers.insert(problem.pointer);
    std::vector<DiskFile> files;
    for (const api::DiskPath& disk : api::disk_paths(config)) {
      if (!pointers.contains(disk.pointer)) files.push_back({disk.id, disk.path, disk.role, disk.readonly});
    }
    return files;
  }

  const api::RestoreRequest& request_;
  const HostFacts& host_;
  bool asks_;  // and restores nothing
  Problems& problems_;
  std::vector<std::string>& notes_;
};

}  // namespace

std::vector<DiskFile> disk_files(const api::VmConfig& config) {
  std::vector<DiskFile> files;
  for (const api::DiskPath& disk : api::disk_paths(config))
    files.push_back({disk.id, disk.path, disk.role, disk.readonly});
  return files;
}

std::optional<Restorable> examine(const std::filesystem::path& source, const api::RestoreRequest& request,
                                  const HostFacts& host, MachineChecks machine_checks, Problems& problems,
                                  std::vector<std::string>& notes) {
  return Examination(request, host, machine_checks, problems, notes).run(source);
}

}  // namespace vmmd::snapshot
