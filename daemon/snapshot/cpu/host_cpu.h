#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "proto/snapshot.pb.h"

// What a guest was told of its CPU against what KVM on this host could give it.
namespace vmmd::snapshot {

/// KVM_GET_SUPPORTED_CPUID of an open /dev/kvm.
Result<std::vector<kvm_cpuid_entry2>> supported_cpuid(int kvm);

struct HostTsc {
  std::uint32_t khz = 0;  // 0: unknown
  bool scales = false;    // KVM_CAP_TSC_CONTROL
};
/// By a VM that is thrown away: costs milliseconds.
Result<HostTsc> host_tsc(int kvm);

/// Who made the CPU, as leaf 0 spells it ("AuthenticAMD"); empty without that leaf.
[[nodiscard]] std::string vendor_of(std::span<const kvm_cpuid_entry2> cpuid);

/// What is wrong with running a guest here that was told of another maker's CPU. Family and model may differ:
/// what they mean is in the features. A vendor that was not recorded fits.
[[nodiscard]] std::optional<std::string> vendor_problem(const CpuIdentity& guest,
                                                        std::span<const kvm_cpuid_entry2> cpuid);

/// What is wrong with running a guest that knows a CPU without these features here. `cpuid` is
/// supported_cpuid().
[[nodiscard]] std::optional<std::string> feature_problem(const CpuIdentity& guest,
                                                         std::span<const kvm_cpuid_entry2> cpuid);

/// The same of its TSC. 250 ppm off, the drift that Linux's timekeeping corrects, is nothing; beyond it the
/// host must be able to scale. Unknown frequencies fit.
[[nodiscard]] std::optional<std::string> tsc_problem(std::uint64_t guest_khz, const HostTsc& host);
[[nodiscard]] bool tsc_differs(std::uint64_t guest_khz, std::uint32_t host_khz);

}  // namespace vmmd::snapshot
