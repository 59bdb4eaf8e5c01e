#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// Features of CPUs by name, and which of them a snapshot needs and a host lacks.
namespace vmmd::snapshot {

enum class CpuidRegister : std::uint8_t { Eax, Ebx, Ecx, Edx };

/// One feature bit of CPUID.
struct CpuFeature {
  std::uint32_t leaf = 0;
  std::uint32_t subleaf = 0;
  CpuidRegister reg = CpuidRegister::Eax;
  unsigned bit = 0;

  bool operator==(const CpuFeature&) const = default;
};

/// "avx2", as /proc/cpuinfo and QEMU spell it; "cpuid 0x7.0:ebx[13]" for a bit without a name.
[[nodiscard]] std::string feature_name(const CpuFeature& feature);

/// The named features and their bits: for tests and for lists in documents.
struct NamedFeature {
  CpuFeature feature;
  std::string_view name;
};
[[nodiscard]] std::span<const NamedFeature> named_features();

/// Names of the features that `wanted` has and `host` has not, in the order of the leaves. Looks at feature
/// words only (1, 7.0, 7.1, 0xD.1, 0x8000'0001, 0x8000'0007, 0x8000'0008, 0x8000'0021, 0x4000'0001), and not
/// at bits that follow run-time state or the VMM instead of the CPU (OSXSAVE, OSPKE, the hypervisor bit).
[[nodiscard]] std::vector<std::string> missing_features(std::span<const kvm_cpuid_entry2> wanted,
                                                        std::span<const kvm_cpuid_entry2> host);

}  // namespace vmmd::snapshot
