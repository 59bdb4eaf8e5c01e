#pragma once

#include <linux/kvm.h>

#include <span>

#include "proto/snapshot.pb.h"
#include "proto/state.pb.h"

namespace vmmd::snapshot {

/// What the guest was told about its CPU, from the saved state of vCPU 0: goes into the manifest.
[[nodiscard]] CpuIdentity cpu_identity(const state::Vcpu& vcpu);

/// The identity's leaves as KVM has them.
[[nodiscard]] std::vector<kvm_cpuid_entry2> cpuid_of(const CpuIdentity& identity);

}  // namespace vmmd::snapshot
