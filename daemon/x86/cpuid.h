#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace vmmd::x86 {

inline constexpr unsigned kMaxVcpus = 255;

/// Cloud Hypervisor's `topology`; the product is the number of vCPUs.
struct CpuTopology {
  unsigned threads_per_core = 1;
  unsigned cores_per_die = 1;
  unsigned dies_per_package = 1;
  unsigned packages = 1;
};

/// The CPUs that a guest shall see.
struct CpuModel {
  unsigned vcpus = 1;                         // 1..kMaxVcpus
  std::optional<CpuTopology> topology = {};   // absent: one package of one-thread cores
  unsigned max_phys_bits = 46;                // physical address bits; the host's if those are fewer
  std::optional<std::uint32_t> tsc_khz = {};  // KVM_GET_TSC_KHZ: told to the guest in leaf 0x4000'0010
  bool nested = true;                         // VMX or SVM, where KVM offers it
  bool hardware_kvm = true;                   // see kvm_uses_hardware()
  bool amx = false;                           // needs a permission that the process must ask for first
  std::optional<std::string> brand = {};      // leaves 0x8000'0002..4: see host_cpu_brand()
};

/// BadRequest where `vcpus` is out of range or the topology's product is another number.
Status check_cpu_model(const CpuModel& model);

/// The x2APIC id of a vCPU: one bit field per topology level, each as wide as it must be, so ids have gaps
/// where a level's count is not a power of two. `model` has passed check_cpu_model().
[[nodiscard]] std::uint32_t apic_id_of(unsigned vcpu, const CpuModel& model);

/// CPUID of all vCPUs of one VM: built once from what KVM supports; each vCPU then differs in its APIC id
/// only, so for_vcpu() is a copy and a few stores.
class CpuidTemplate {
 public:
  /// `supported` is KVM_GET_SUPPORTED_CPUID's answer. Fails as check_cpu_model() does.
  static Result<CpuidTemplate> build(std::span<const kvm_cpuid_entry2> supported, const CpuModel& model);

  /// For KVM_SET_CPUID2. `vcpu` < model.vcpus.
  [[nodiscard]] std::vector<kvm_cpuid_entry2> for_vcpu(unsigned vcpu) const;
  /// vCPU 0's, as the snapshot's manifest records it.
  [[nodiscard]] const std::vector<kvm_cpuid_entry2>& base() const { return base_; }

 private:
  CpuModel model_;
  std::vector<kvm_cpuid_entry2> base_;
};

/// Does KVM run guests by VT-x or SVM? Else ring 0 may be emulated in software. `supported` is
/// KVM_GET_SUPPORTED_CPUID's answer, `modules` where the kernel lists its modules, built-in ones included.
[[nodiscard]] bool kvm_uses_hardware(std::span<const kvm_cpuid_entry2> supported,
                                     const std::string& modules = "/sys/module");

enum class CpuVendor { Intel, Amd, Other };
/// From leaf 0. Hygon counts as Amd: it has the same leaves.
[[nodiscard]] CpuVendor cpu_vendor(std::span<const kvm_cpuid_entry2> cpuid);

/// "AMD EPYC 7B13": the host's, which KVM_GET_SUPPORTED_CPUID leaves empty. At most 48 characters.
[[nodiscard]] const std::string& host_cpu_brand();

/// Physical address bits that a guest can use: of leaf 0x8000'0008, or fewer where KVM says there that its
/// second-level page tables reach less far. 36 where the leaf is absent.
[[nodiscard]] unsigned host_phys_bits(std::span<const kvm_cpuid_entry2> cpuid);

}  // namespace vmmd::x86
