#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <vector>

namespace vmmd::x86 {

// MSRs that others in the daemon name (Intel SDM volume 4; kvm_para.h).
inline constexpr std::uint32_t kMsrTsc = 0x10;
inline constexpr std::uint32_t kMsrTscAdjust = 0x3B;
inline constexpr std::uint32_t kMsrArchCapabilities = 0x10A;
inline constexpr std::uint32_t kMsrMiscEnable = 0x1A0;
inline constexpr std::uint32_t kMsrPerfCapabilities = 0x345;
inline constexpr std::uint32_t kMsrMtrrDefType = 0x2FF;
inline constexpr std::uint32_t kMsrTscDeadline = 0x6E0;

/// What a new vCPU needs beyond KVM's reset values when it boots a kernel without firmware.
[[nodiscard]] std::vector<kvm_msr_entry> boot_msrs();

/// The MSRs to save and restore of a vCPU, in the order in which to set them. `kvm_list` is
/// KVM_GET_MSR_INDEX_LIST's answer; KVM leaves out some of its own MSRs there, which are added.
/// KVM_GET_MSRS and KVM_SET_MSRS stop at the first MSR that they refuse and return how many they took: go
/// on behind it if is_optional_msr() says so, and fail otherwise.
[[nodiscard]] std::vector<std::uint32_t> saved_msr_indices(std::span<const std::uint32_t> kvm_list);

/// True for an MSR that this host's KVM may refuse to read or to set without harm: saving leaves it out,
/// restoring skips it.
[[nodiscard]] bool is_optional_msr(std::uint32_t index);

/// Mends values that cannot be restored as they were read, in place. Call between KVM_GET_MSRS and saving.
/// A TSC deadline that has passed reads as 0, which set again would mean "no timer": it becomes the TSC
/// itself, so that the interrupt which the guest may be owed comes at once (Firecracker #4618). Where the
/// timer is not in deadline mode KVM ignores the value; where the guest had disarmed it, one timer interrupt
/// too many is harmless.
void fix_saved_msrs(std::span<kvm_msr_entry> msrs);

}  // namespace vmmd::x86
