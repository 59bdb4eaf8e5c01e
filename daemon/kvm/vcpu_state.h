#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "daemon/kvm/vcpu_fd.h"
#include "proto/state.pb.h"

namespace vmmd::kvm {

/// Everything that makes a vCPU go on where it was. The vCPU is not in KVM_RUN, and its last exit is
/// completed (KVM_RUN was entered once more with immediate_exit), or an instruction would be lost.
///
/// `cpuid`: what was set. `msr_indices`: what to read, in the order in which it will be written back
/// (x86::saved_msr_indices()). `tsc`: the guest's TSC when its time stopped, saved instead of the one that
/// runs on in KVM.
Result<state::Vcpu> save_vcpu(const VcpuFd& vcpu, std::span<const kvm_cpuid_entry2> cpuid,
                              std::span<const std::uint32_t> msr_indices, std::optional<std::uint64_t> tsc);

/// Writes a state that check_vcpu() has passed, but for CPUID, which has been set. MSRs that KVM refuses are
/// appended to `refused_msrs`; the caller decides. BadRequest for what KVM finds impossible, with a name for
/// it.
Status restore_vcpu(const VcpuFd& vcpu, const state::Vcpu& state, std::vector<std::uint32_t>& refused_msrs);

}  // namespace vmmd::kvm
