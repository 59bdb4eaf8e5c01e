#include "api/validate.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>

#include "api/findings.h"
#include "api/host_files.h"
#include "api/unbuilt.h"
#include "api/validate_devices.h"
#include "api/validate_disks.h"
#include "api/validate_networks.h"
#include "api/validate_pmem.h"

namespace vmmd::api {

namespace {

constexpr std::uint64_t kPage = 4096;                         // bytes
constexpr std::uint64_t kMinMemory = std::uint64_t{1} << 20;  // bytes; below it ACPI tables have no place
constexpr std::uint64_t kDefaultHugepage = std::uint64_t{2} << 20;  // bytes, x86-64
constexpr unsigned kMinPhysBits = 36, kMaxPhysBits = 52;  // CPUID 0x80000008, Intel SDM volume 3, 4.1.4
constexpr unsigned kMaxThreadsPerCore = 2;
constexpr std::size_t kMaxCmdline = 65'535;  // bytes; each loader has a tighter limit

void add(Findings& findings, std::string_view pointer, const Status& status) {
  if (!status) findings.add(status.error().code, pointer, "{}", status.error().to_string());
}

void check_topology(const CpusConfig& cpus, Findings& findings) {
  if (!cpus.topology) return;
  const CpuTopology& t = *cpus.topology;
  if (t.threads_per_core > kMaxThreadsPerCore) {
    findings.add(ErrorCode::BadRequest, "/cpus/topology/threads_per_core", "{} threads are more than {}",
                 t.threads_per_core, kMaxThreadsPerCore);
  }
  const std::uint64_t product =
      std::uint64_t{t.threads_per_core} * t.cores_per_die * t.dies_per_package * t.packages;
  if (product != cpus.max_vcpus) {
    findings.add(ErrorCode::BadRequest, "/cpus/topology", "{} * {} * {} * {} = {} is not max_vcpus = {}",
                 t.threads_per_core, t.cores_per_die, t.dies_per_package, t.packages, product,
                 cpus.max_vcpus);
  }
}

// Of the CPUs that the host has.
bool may_run_on(unsigned cpu) {
  cpu_set_t allowed;
  if (cpu >= CPU_SETSIZE || ::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return true;
  return CPU_ISSET(cpu, &allowed);
}

void check_affinity(const CpusConfig& cpus, Findings& findings) {
  if (cpus.affinity.empty()) return;  // counting the host's CPUs means reading a file of sysfs
  const auto host_cpus = static_cast<std::uint64_t>(std::max(1L, ::sysconf(_SC_NPROCESSORS_CONF)));
  std::set<unsigned> seen;
  for (std::size_t i = 0; i < cpus.affinity.size(); ++i) {
    const CpuAffinity& affinity = cpus.affinity[i];
    const std::string pointer = fmt::format("/cpus/affinity/{}", i);
    if (affinity.vcpu >= cpus.max_vcpus) {
      findings.add(ErrorCode::BadRequest, pointer + "/vcpu", "there is no vCPU {} of {}", affinity.vcpu,
                   cpus.max_vcpus);
    }
    if (!seen.insert(affinity.vcpu).second) {
      findings.add(ErrorCode::BadRequest, pointer + "/vcpu", "vCPU {} is named twice", affinity.vcpu);
    }
    if (affinity.host_cpus.empty()) {
      findings.add(ErrorCode::BadRequest, pointer + "/host_cpus", "the list is empty");
    }
    for (const unsigned cpu : affinity.host_cpus) {
      if (cpu >= host_cpus) {
        findings.add(ErrorCode::BadRequest, pointer + "/host_cpus", "there is no CPU {}: the host has {}",
                     cpu, host_cpus);
        break;
      }
      if (!may_run_on(cpu)) {
        findings.add(ErrorCode::BadRequest, pointer + "/host_cpus",
                     "vmmd may not run on CPU {}: it is offline, or vmmd was started with others only "
                     "(taskset, systemd's CPUAffinity, a cpuset)",
                     cpu);
        break;
      }
    }
  }
}

void check_cpus(const CpusConfig& cpus, Findings& findings) {
  if (cpus.boot_vcpus == 0 || cpus.max_vcpus > 255) {
    findings.add(ErrorCode::BadRequest, "/cpus/boot_vcpus", "a VM has 1 to 255 vCPUs");
  }
  if (cpus.boot_vcpus > cpus.max_vcpus) {
    findings.add(ErrorCode::BadRequest, "/cpus/boot_vcpus", "{} is more than max_vcpus = {}", cpus.boot_vcpus,
                 cpus.max_vcpus);
  }
  if (cpus.max_phys_bits < kMinPhysBits || cpus.max_phys_bits > kMaxPhysBits) {
    findings.add(ErrorCode::BadRequest, "/cpus/max_phys_bits", "{} is not in the range {} to {}",
                 cpus.max_phys_bits, kMinPhysBits, kMaxPhysBits);
  }
  check_topology(cpus, findings);
  check_affinity(cpus, findings);
}

void check_hugepages(const MemoryConfig& memory, Findings& findings) {
  if (!memory.hugepages) {
    if (memory.hugepage_size) {
      findings.add(ErrorCode::BadRequest, "/memory/hugepage_size", "needs hugepages = true");
    }
    return;
  }
  const std::uint64_t page = memory.hugepage_size.value_or(kDefaultHugepage);
  if (!std::has_single_bit(page) || page <= kPage) {
    findings.add(ErrorCode::BadRequest, "/memory/hugepage_size", "{} is not a power of two above {} bytes",
                 page, kPage);
    return;
  }
  if (memory.size % page != 0) {
    findings.add(ErrorCode::BadRequest, "/memory/size", "{} is not a multiple of the {} bytes of a huge page",
                 memory.size, page);
  }
  std::error_code ignored;
  const std::string offered = fmt::format("/sys/kernel/mm/hugepages/hugepages-{}kB", page >> 10);
  if (!std::filesystem::exists(offered, ignored)) {
    findings.add(ErrorCode::BadRequest, "/memory/hugepage_size",
                 "the host has no huge pages of {} bytes: see /sys/kernel/mm/hugepages", page);
  }
}

void check_memory_file(const MemoryConfig& memory, Findings& findings) {
  if (!memory.file) return;
  if (memory.hugepages) {
    findings.add(ErrorCode::BadRequest, "/memory/file", "huge pages and a file exclude each other");
  }
  if (!memory.zones.empty()) {
    findings.add(ErrorCode::BadRequest, "/memory/file", "zones and a file exclude each other");
  }
  const Status writable = check_writable_file(*memory.file, /*regular_only=*/true);
  add(findings, "/memory/file", writable);
  std::error_code error;
  const std::uintmax_t actual = std::filesystem::file_size(*memory.file, error);
  if (writable && !error && actual != 0 && actual != memory.size) {
    findings.add(ErrorCode::BadRequest, "/memory/file",
                 "\"{}\" has {} bytes, the VM has {} bytes of RAM: give the matching size or another file",
                 *memory.file, actual, memory.size);
  }
}

void check_memory(const MemoryConfig& memory, unsigned max_phys_bits, Findings& findings) {
  // With zones, RAM is their sum and the size here is 0.
  if (memory.zones.empty()) {
    if (memory.size == 0 || memory.size % kPage != 0) {
      findings.add(ErrorCode::BadRequest, "/memory/size", "{} is not a positive multiple of {} bytes",
                   memory.size, kPage);
    } else if (memory.size <= kMinMemory) {
      findings.add(ErrorCode::BadRequest, "/memory/size",
                   "{} bytes are not more than {}: no guest can boot there", memory.size, kMinMemory);
    }
    if (max_phys_bits < 64 && memory.size >> max_phys_bits != 0) {
      findings.add(ErrorCode::BadRequest, "/memory/size",
                   "{} bytes do not fit below 2^{} (cpus.max_phys_bits)", memory.size, max_phys_bits);
    }
  }
  check_hugepages(memory, findings);
  check_memory_file(memory, findings);
}

void check_payload(const PayloadConfig& payload, Findings& findings) {
  const bool other_payload = payload.firmware || payload.igvm;
  if (payload.kernel && payload.firmware) {
    findings.add(ErrorCode::BadRequest, "/payload/firmware",
                 "a VM starts from a kernel or from firmware, not both");
  }
  if (payload.kernel) {
    add(findings, "/payload/kernel", check_readable_file(*payload.kernel));
  } else if (!other_payload) {
    findings.add(ErrorCode::BadRequest, "/payload/kernel", "missing: there is nothing to boot");
  }
  if (payload.initramfs) add(findings, "/payload/initramfs", check_readable_file(*payload.initramfs));
  if (payload.cmdline && payload.cmdline->size() > kMaxCmdline) {
    findings.add(ErrorCode::BadRequest, "/payload/cmdline", "{} bytes are more than {}",
                 payload.cmdline->size(), kMaxCmdline);
  }
}

}  // namespace

Status validate(const VmConfig& config, ValidateFor purpose) {
  Findings findings;
  check_cpus(config.cpus, findings);
  check_memory(config.memory, config.cpus.max_phys_bits, findings);
  if (purpose == ValidateFor::Boot) check_payload(config.payload, findings);
  check_consoles(config, findings);
  check_device_ids(config, findings);
  check_shared_paths(config, findings);
  const bool boots = purpose == ValidateFor::Boot;
  check_disks(config, boots, findings);
  check_networks(config, boots, findings);
  check_pmem(config, findings);
  check_vsock(config, findings);
  if (config.balloon && config.balloon->size > config.memory.size) {
    findings.add(ErrorCode::BadRequest, "/balloon/size", "{} bytes are more than the VM's RAM of {}",
                 config.balloon->size, config.memory.size);
  }
  find_unbuilt(config, findings);
  return std::move(findings).status();
}

}  // namespace vmmd::api
