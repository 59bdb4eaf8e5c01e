#pragma once

#include <linux/kvm.h>

#include <vector>

#include "daemon/x86/cpuid.h"

namespace vmmd::x86 {

/// Fills in what is the same for all vCPUs: counts, level widths and who shares which cache. Adds leaves
/// where KVM has none.
void set_topology(std::vector<kvm_cpuid_entry2>& entries, const CpuModel& model);

/// Fills in what tells one vCPU from another. `entries` went through set_topology().
void set_apic_id(std::vector<kvm_cpuid_entry2>& entries, const CpuModel& model, unsigned vcpu);

}  // namespace vmmd::x86
