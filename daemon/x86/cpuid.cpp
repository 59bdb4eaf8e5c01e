#include "daemon/x86/cpuid.h"

#include <cpuid.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include <asm/kvm_para.h>

#include "daemon/x86/cpuid_topology.h"

namespace vmmd::x86 {
namespace {

constexpr std::uint32_t bit(unsigned n) {
  return 1U << n;
}

constexpr std::uint32_t kExtendedBase = 0x8000'0000;
constexpr std::uint32_t kBrandBase = 0x8000'0002;  // and the next two
constexpr std::uint32_t kHypervisorBase = 0x4000'0000;
constexpr std::uint32_t kHypervisorTiming = 0x4000'0010;
constexpr std::size_t kBrandSize = 48;

/// The CPUID table under construction.
class Table {
 public:
  explicit Table(std::span<const kvm_cpuid_entry2> entries) : entries_(entries.begin(), entries.end()) {}

  kvm_cpuid_entry2* find(std::uint32_t leaf, std::uint32_t subleaf = 0) {
    for (auto& entry : entries_) {
      if (entry.function == leaf && entry.index == subleaf) return &entry;
    }
    return nullptr;
  }
  kvm_cpuid_entry2& find_or_add(std::uint32_t leaf) {
    if (auto* entry = find(leaf)) return *entry;
    kvm_cpuid_entry2 entry{};
    entry.function = leaf;
    return entries_.emplace_back(entry);
  }
  /// Takes a leaf away with all its subleaves: it then reads as zero.
  void remove(std::uint32_t leaf) {
    std::erase_if(entries_, [&](const kvm_cpuid_entry2& entry) { return entry.function == leaf; });
  }
  void remove(std::uint32_t leaf, std::uint32_t subleaf) {
    std::erase_if(entries_, [&](const kvm_cpuid_entry2& entry) {
      return entry.function == leaf && entry.index == subleaf;
    });
  }
  std::vector<kvm_cpuid_entry2>& entries() { return entries_; }

 private:
  std::vector<kvm_cpuid_entry2> entries_;
};

/// Performance counters: their state is not saved (see msr.cpp), so the guest shall not find any.
void hide_pmu(Table& table) {
  table.remove(0xA);
  table.remove(0x23);
  table.remove(0x8000'001B);  // AMD instruction based sampling
  table.remove(0x8000'0022);  // AMD PerfMonV2
  if (auto* leaf = table.find(1)) {
    leaf->ecx &= ~(bit(2) | bit(15));  // DTES64, PDCM
    leaf->edx &= ~bit(21);             // DS
  }
  if (auto* leaf = table.find(7)) leaf->edx &= ~bit(19);  // ARCH_LBR
  if (auto* leaf = table.find(0x8000'0001)) {
    leaf->ecx &= ~(bit(10) | bit(23) | bit(24) | bit(28));  // IBS, PERFCTR_CORE, _NB, _LLC
  }
}

/// What exists on the host, but makes no sense in a guest, or whose state nobody saves.
void hide_host_only(Table& table) {
  table.remove(5);            // MONITOR/MWAIT: idling in the guest would burn a host CPU
  table.remove(0xF);          // cache monitoring
  table.remove(0x10);         // and allocation belong to the host
  table.remove(0x12);         // SGX: no enclave memory is given
  table.remove(0x14);         // Processor Trace: its buffers are not saved
  table.remove(0x19);         // Key Locker
  table.remove(0x8000'001C);  // lightweight profiling
  table.remove(0x8000'001F);  // SEV is a host's business
  table.remove(0x8000'0026);  // AMD's newer topology leaf: systems fall back to 0xB, which we fill
  if (auto* leaf = table.find(1)) leaf->ecx &= ~bit(3);  // MONITOR
  if (auto* leaf = table.find(7)) {
    leaf->ebx &= ~(bit(2) | bit(12) | bit(15) | bit(25));  // SGX, RDT-M, RDT-A, Intel PT
    leaf->ecx &= ~(bit(23) | bit(30));                     // Key Locker, SGX_LC
  }
  if (auto* leaf = table.find(0x8000'0001)) leaf->ecx &= ~(bit(15) | bit(29));  // LWP, MWAITX
}

void hide_nested(Table& table) {
  table.remove(0x8000'000A);
  if (auto* leaf = table.find(1)) leaf->ecx &= ~bit(5);            // VMX
  if (auto* leaf = table.find(0x8000'0001)) leaf->ecx &= ~bit(2);  // SVM
}

/// AMX tile state needs arch_prctl(ARCH_REQ_XCOMP_GUEST_PERM) before the first vCPU; KVM reports the
/// features without it and then refuses KVM_SET_CPUID2.
void hide_amx(Table& table) {
  constexpr std::uint32_t kTileState = bit(17) | bit(18);
  table.remove(0x1D);
  table.remove(0x1E);
  if (auto* leaf = table.find(7)) leaf->edx &= ~(bit(22) | bit(24) | bit(25));  // BF16, TILE, INT8
  if (auto* leaf = table.find(7, 1)) {
    leaf->eax &= ~bit(21);  // FP16
    leaf->edx &= ~bit(8);   // COMPLEX
  }
  if (auto* leaf = table.find(0xD, 1)) leaf->eax &= ~bit(4);  // XFD, which only AMX uses
  auto* xstate = table.find(0xD);
  if (xstate == nullptr || (xstate->eax & kTileState) == 0) return;
  xstate->eax &= ~kTileState;
  table.remove(0xD, 17);
  table.remove(0xD, 18);
  // ECX is the size of the largest XSAVE area: legacy region and header, or the end of the last component.
  std::uint32_t size = 512 + 64;
  for (std::uint32_t component = 2; component < 32; ++component) {
    const auto* entry = table.find(0xD, component);
    if (entry != nullptr && (xstate->eax & bit(component)) != 0) {
      size = std::max(size, entry->eax + entry->ebx);
    }
  }
  xstate->ecx = size;
}

void set_features(Table& table) {
  auto* leaf = table.find(1);
  if (leaf == nullptr) return;
  leaf->ecx |= bit(31);  // a hypervisor is there
  leaf->ecx |= bit(21);  // x2APIC: KVM's LAPIC always can
  leaf->ecx |= bit(24);  // TSC deadline: KVM_GET_SUPPORTED_CPUID leaves it out by its documentation, whatever
                         // KVM_CAP_TSC_DEADLINE_TIMER says; we require that capability
}

/// A KVM without VT-x and SVM (PVM) has to replace vmcall in the guest's text, at each restore anew. Two
/// vCPUs that meet one vmcall at the same time were seen to go round in it for ever, the rest of the guest
/// waiting for their interrupts. So there no hypercall is offered that vCPUs make side by side.
void hide_hypercalls(Table& table) {
  auto* features = table.find(kHypervisorBase + 1);
  if (features == nullptr) return;
  features->eax &=
      ~(bit(KVM_FEATURE_PV_UNHALT) | bit(KVM_FEATURE_PV_SEND_IPI) | bit(KVM_FEATURE_PV_SCHED_YIELD));
}

void set_phys_bits(Table& table, unsigned max_phys_bits) {
  auto* leaf = table.find(0x8000'0008);
  if (leaf == nullptr) return;
  const std::uint32_t bits = std::min(leaf->eax & 0xFF, max_phys_bits);
  std::uint32_t guest_bits = (leaf->eax >> 16) & 0xFF;  // 0: the same
  guest_bits = std::min(guest_bits, bits);
  leaf->eax = (leaf->eax & 0xFF00'FF00) | guest_bits << 16 | bits;
}

/// KVM's own leaves stay as KVM made them; Cloud Hypervisor (and VMware before) adds TSC and LAPIC timer
/// frequency in kHz, which spares a guest the calibration.
void set_hypervisor_timing(Table& table, std::uint32_t tsc_khz) {
  constexpr std::uint32_t kLapicBusKhz = 1'000'000;  // KVM's LAPIC timer counts nanoseconds
  auto* base = table.find(kHypervisorBase);
  if (base == nullptr) return;
  base->eax = std::max(base->eax, kHypervisorTiming);
  auto& timing = table.find_or_add(kHypervisorTiming);
  timing.eax = tsc_khz;
  timing.ebx = kLapicBusKhz;
}

void set_brand(Table& table, const std::string& brand) {
  std::array<char, kBrandSize> text{};
  std::memcpy(text.data(), brand.data(), std::min(brand.size(), text.size() - 1));
  for (std::uint32_t i = 0; i < 3; ++i) {
    std::array<std::uint32_t, 4> words{};
    std::memcpy(words.data(), text.data() + std::size_t{16} * i, sizeof(words));
    auto& leaf = table.find_or_add(kBrandBase + i);
    leaf.eax = words[0];
    leaf.ebx = words[1];
    leaf.ecx = words[2];
    leaf.edx = words[3];
  }
}

}  // namespace

Result<CpuidTemplate> CpuidTemplate::build(std::span<const kvm_cpuid_entry2> supported,
                                           const CpuModel& model) {
  VMMD_TRY(check_cpu_model(model));
  Table table(supported);
  hide_pmu(table);
  hide_host_only(table);
  if (!model.hardware_kvm) hide_hypercalls(table);
  if (!model.nested) hide_nested(table);
  if (!model.amx) hide_amx(table);
  set_features(table);
  set_phys_bits(table, model.max_phys_bits);
  if (model.tsc_khz) set_hypervisor_timing(table, *model.tsc_khz);
  if (model.brand) set_brand(table, *model.brand);

  CpuidTemplate result;
  result.model_ = model;
  result.base_ = std::move(table.entries());
  set_topology(result.base_, model);
  set_apic_id(result.base_, model, 0);
  return result;
}

std::vector<kvm_cpuid_entry2> CpuidTemplate::for_vcpu(unsigned vcpu) const {
  std::vector<kvm_cpuid_entry2> entries = base_;
  set_apic_id(entries, model_, vcpu);
  return entries;
}

bool kvm_uses_hardware(std::span<const kvm_cpuid_entry2> supported, const std::string& modules) {
  Table table(supported);
  const auto* one = table.find(1);
  if (one != nullptr && (one->ecx & bit(5)) != 0) return true;  // VMX
  const auto* extended = table.find(0x8000'0001);
  if (extended != nullptr && (extended->ecx & bit(2)) != 0) return true;  // SVM
  // With nested=0 neither is offered to guests.
  return ::access((modules + "/kvm_intel").c_str(), F_OK) == 0 ||
         ::access((modules + "/kvm_amd").c_str(), F_OK) == 0;
}

CpuVendor cpu_vendor(std::span<const kvm_cpuid_entry2> cpuid) {
  for (const auto& leaf : cpuid) {
    if (leaf.function != 0) continue;
    const std::array<std::uint32_t, 3> words{leaf.ebx, leaf.edx, leaf.ecx};
    std::array<char, sizeof(words)> text{};
    std::memcpy(text.data(), words.data(), text.size());
    const std::string_view vendor(text.data(), text.size());
    if (vendor == "GenuineIntel") return CpuVendor::Intel;
    if (vendor == "AuthenticAMD" || vendor == "HygonGenuine") return CpuVendor::Amd;
  }
  return CpuVendor::Other;
}

namespace {

std::string read_cpu_brand() {
  std::array<std::uint32_t, 12> words{};
  if (__get_cpuid_max(kExtendedBase, nullptr) < kBrandBase + 2) return {};
  for (unsigned i = 0; i < 3; ++i) {
    auto* leaf = &words[std::size_t{4} * i];
    __get_cpuid(kBrandBase + i, leaf, leaf + 1, leaf + 2, leaf + 3);
  }
  std::array<char, kBrandSize + 1> text{};  // the last byte ends it, whatever the CPU says
  std::memcpy(text.data(), words.data(), kBrandSize);
  return text.data();
}

}  // namespace

const std::string& host_cpu_brand() {
  // Once: where we are a guest ourselves, CPUID is an exit to the hypervisor, and this takes seven of them.
  static const std::string brand = read_cpu_brand();
  return brand;
}

unsigned host_phys_bits(std::span<const kvm_cpuid_entry2> cpuid) {
  constexpr unsigned kWithoutLeaf = 36;
  for (const auto& leaf : cpuid) {
    if (leaf.function != 0x8000'0008) continue;
    const unsigned bits = leaf.eax & 0xFF;
    const unsigned guest_bits = (leaf.eax >> 16) & 0xFF;
    return guest_bits == 0 ? bits : std::min(bits, guest_bits);
  }
  return kWithoutLeaf;
}

}  // namespace vmmd::x86
