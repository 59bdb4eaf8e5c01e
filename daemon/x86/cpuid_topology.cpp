#include "daemon/x86/cpuid_topology.h"

#include <algorithm>
#include <bit>

namespace vmmd::x86 {
namespace {

constexpr std::uint32_t bit(unsigned n) {
  return 1U << n;
}

CpuTopology topology_of(const CpuModel& model) {
  return model.topology.value_or(CpuTopology{1, model.vcpus, 1, 1});
}

/// How far to shift an APIC id right to drop the level's bits.
struct Shifts {
  unsigned core = 0;     // thread bits
  unsigned die = 0;      // and core bits
  unsigned package = 0;  // and die bits
};

unsigned width(unsigned count) {
  return static_cast<unsigned>(std::bit_width(count - 1));
}

Shifts shifts_of(const CpuTopology& topology) {
  Shifts shifts;
  shifts.core = width(topology.threads_per_core);
  shifts.die = shifts.core + width(topology.cores_per_die);
  shifts.package = shifts.die + width(topology.dies_per_package);
  return shifts;
}

/// Writes `value` into bits [low, low + count) and saturates where it is too large for them: the leaves are
/// older than large machines, and systems look at 0xB first.
void set_bits(std::uint32_t& word, unsigned low, unsigned count, std::uint32_t value) {
  const std::uint32_t mask = bit(count) - 1;
  word = (word & ~(mask << low)) | std::min(value, mask) << low;
}

/// Leaf 4 (Intel) and 0x8000'001D (AMD) have one form. EAX[25:14] is taken by guests as a width, so it is the
/// number of ids that can share the cache, not of vCPUs that do.
void set_cache_sharing(kvm_cpuid_entry2& leaf, const Shifts& shifts) {
  const unsigned type = leaf.eax & 0x1F;
  if (type == 0) return;  // no more caches
  const unsigned level = (leaf.eax >> 5) & 7;
  const unsigned shift = level >= 3 ? shifts.die : shifts.core;
  set_bits(leaf.eax, 14, 12, bit(shift) - 1);
}

void set_feature_leaf(kvm_cpuid_entry2& leaf, const CpuTopology& topology, const Shifts& shifts) {
  const unsigned threads = topology.threads_per_core * topology.cores_per_die * topology.dies_per_package;
  set_bits(leaf.ebx, 16, 8, bit(shifts.package));                     // ids reserved in the package
  leaf.edx = threads > 1 ? leaf.edx | bit(28) : leaf.edx & ~bit(28);  // HTT: the field above counts
}

kvm_cpuid_entry2 level(std::uint32_t leaf, std::uint32_t subleaf, unsigned type, unsigned shift,
                       unsigned threads) {
  kvm_cpuid_entry2 entry{};
  entry.function = leaf;
  entry.index = subleaf;
  entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
  entry.eax = shift;
  entry.ebx = threads;
  entry.ecx = type << 8 | subleaf;
  return entry;
}

/// Extended topology: 0xB knows threads and packages' cores, 0x1F dies as well and is there only with
/// several of them, since systems prefer it when it exists.
void add_topology_levels(std::vector<kvm_cpuid_entry2>& entries, CpuVendor vendor,
                         const CpuTopology& topology, const Shifts& shifts) {
  constexpr unsigned kEnd = 0, kThread = 1, kCore = 2, kDie = 5;
  std::erase_if(entries, [](const auto& entry) { return entry.function == 0xB || entry.function == 0x1F; });
  const unsigned per_core = topology.threads_per_core;
  const unsigned per_die = per_core * topology.cores_per_die;
  const unsigned per_package = per_die * topology.dies_per_package;
  entries.push_back(level(0xB, 0, kThread, shifts.core, per_core));
  entries.push_back(level(0xB, 1, kCore, shifts.package, per_package));
  entries.push_back(level(0xB, 2, kEnd, 0, 0));
  std::uint32_t highest = 0xB;
  if (vendor != CpuVendor::Amd && topology.dies_per_package > 1) {
    entries.push_back(level(0x1F, 0, kThread, shifts.core, per_core));
    entries.push_back(level(0x1F, 1, kCore, shifts.die, per_die));
    entries.push_back(level(0x1F, 2, kDie, shifts.package, per_package));
    entries.push_back(level(0x1F, 3, kEnd, 0, 0));
    highest = 0x1F;
  }
  for (auto& entry : entries) {
    if (entry.function == 0) entry.eax = std::max(entry.eax, highest);
  }
}

void set_amd_topology(std::vector<kvm_cpuid_entry2>& entries, const CpuTopology& topology,
                      const Shifts& shifts) {
  const unsigned threads = topology.threads_per_core * topology.cores_per_die * topology.dies_per_package;
  bool has_topoext = false;
  bool has_node_leaf = false;
  for (auto& entry : entries) {
    switch (entry.function) {
      case 0x8000'0001:
        // CMP_LEGACY: the count in leaf 1 is of cores.
        entry.ecx = threads > 1 ? entry.ecx | bit(1) : entry.ecx & ~bit(1);
        has_topoext = (entry.ecx & bit(22)) != 0;
        break;
      case 0x8000'0008:
        set_bits(entry.ecx, 0, 8, threads - 1);
        set_bits(entry.ecx, 12, 4, shifts.package);
        break;
      case 0x8000'001D:
        set_cache_sharing(entry, shifts);
        break;
      case 0x8000'001E:
        has_node_leaf = true;
        break;
      default:
        break;
    }
  }
  if (has_topoext && !has_node_leaf) {
    kvm_cpuid_entry2 entry{};
    entry.function = 0x8000'001E;
    entries.push_back(entry);
    for (auto& base : entries) {
      if (base.function == 0x8000'0000) base.eax = std::max(base.eax, entry.function);
    }
  }
}

void set_node_leaf(kvm_cpuid_entry2& leaf, const CpuTopology& topology, const Shifts& shifts,
                   std::uint32_t apic_id) {
  const std::uint32_t package = apic_id >> shifts.package;
  const std::uint32_t die = (apic_id >> shifts.die) & (bit(shifts.package - shifts.die) - 1);
  leaf.eax = apic_id;
  leaf.ebx = 0;
  set_bits(leaf.ebx, 0, 8, (apic_id >> shifts.core) & (bit(shifts.package - shifts.core) - 1));
  set_bits(leaf.ebx, 8, 8, topology.threads_per_core - 1);
  leaf.ecx = 0;
  set_bits(leaf.ecx, 0, 8, package * topology.dies_per_package + die);
  set_bits(leaf.ecx, 8, 3, topology.dies_per_package - 1);
  leaf.edx = 0;
}

}  // namespace

Status check_cpu_model(const CpuModel& model) {
  if (model.vcpus == 0 || model.vcpus > kMaxVcpus) {
    return fail(ErrorCode::BadRequest, "{} vCPUs: must be 1 to {}", model.vcpus, kMaxVcpus);
  }
  if (!model.topology) return {};
  const CpuTopology& topology = *model.topology;
  // Each factor is checked first, so that the product cannot wrap around.
  for (const unsigned count :
       {topology.threads_per_core, topology.cores_per_die, topology.dies_per_package, topology.packages}) {
    if (count == 0 || count > kMaxVcpus) {
      return fail(ErrorCode::BadRequest, "CPU topology {}:{}:{}:{}: each level must be 1 to {}",
                  topology.threads_per_core, topology.cores_per_die, topology.dies_per_package,
                  topology.packages, kMaxVcpus);
    }
  }
  const std::uint64_t product = std::uint64_t{topology.threads_per_core} * topology.cores_per_die *
                                topology.dies_per_package * topology.packages;
  if (product != model.vcpus) {
    return fail(ErrorCode::BadRequest, "CPU topology {}:{}:{}:{} is for {} vCPUs, not {}",
                topology.threads_per_core, topology.cores_per_die, topology.dies_per_package,
                topology.packages, product, model.vcpus);
  }
  return {};
}

std::uint32_t apic_id_of(unsigned vcpu, const CpuModel& model) {
  const CpuTopology topology = topology_of(model);
  const Shifts shifts = shifts_of(topology);
  const unsigned thread = vcpu % topology.threads_per_core;
  vcpu /= topology.threads_per_core;
  const unsigned core = vcpu % topology.cores_per_die;
  vcpu /= topology.cores_per_die;
  const unsigned die = vcpu % topology.dies_per_package;
  const unsigned package = vcpu / topology.dies_per_package;
  return package << shifts.package | die << shifts.die | core << shifts.core | thread;
}

void set_topology(std::vector<kvm_cpuid_entry2>& entries, const CpuModel& model) {
  const CpuTopology topology = topology_of(model);
  const Shifts shifts = shifts_of(topology);
  const CpuVendor vendor = cpu_vendor(entries);
  for (auto& entry : entries) {
    if (entry.function == 1) set_feature_leaf(entry, topology, shifts);
    if (entry.function == 4 && (entry.eax & 0x1F) != 0) {
      set_cache_sharing(entry, shifts);
      set_bits(entry.eax, 26, 6, bit(shifts.package - shifts.core) - 1);  // core ids in the package
    }
  }
  if (vendor == CpuVendor::Amd) set_amd_topology(entries, topology, shifts);
  add_topology_levels(entries, vendor, topology, shifts);
}

void set_apic_id(std::vector<kvm_cpuid_entry2>& entries, const CpuModel& model, unsigned vcpu) {
  const CpuTopology topology = topology_of(model);
  const Shifts shifts = shifts_of(topology);
  const std::uint32_t id = apic_id_of(vcpu, model);
  for (auto& entry : entries) {
    switch (entry.function) {
      case 1:
        entry.ebx = (entry.ebx & 0x00FF'FFFF) | id << 24;
        break;  // the low eight bits
      case 0xB:
      case 0x1F:
        entry.edx = id;
        break;
      case 0x8000'001E:
        set_node_leaf(entry, topology, shifts, id);
        break;
      default:
        break;
    }
  }
}

}  // namespace vmmd::x86
