#include "daemon/snapshot/cpu_identity.h"

#include <cstring>
#include <string>
#include <vector>

#include "daemon/snapshot/cpu/cpuid_messages.h"
#include "daemon/snapshot/cpu/host_cpu.h"

namespace vmmd::snapshot {

namespace {

void append_register(std::string& text, std::uint32_t value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  text.append(bytes, sizeof value);
}

// CPUID 1 EAX (SDM vol. 2, CPUID): extended fields count only for these families.
void set_signature(CpuIdentity& identity, std::uint32_t eax) {
  const std::uint32_t family = (eax >> 8) & 0xF;
  const std::uint32_t model = (eax >> 4) & 0xF;
  identity.set_family(family == 0xF ? family + ((eax >> 20) & 0xFF) : family);
  identity.set_model(family == 0x6 || family == 0xF ? model | ((eax >> 12) & 0xF0) : model);
  identity.set_stepping(eax & 0xF);
}

}  // namespace

CpuIdentity cpu_identity(const state::Vcpu& vcpu) {
  CpuIdentity identity;
  std::string brand;
  const std::vector<kvm_cpuid_entry2> cpuid = from_messages(vcpu.cpuid());
  identity.set_vendor(vendor_of(cpuid));
  for (const kvm_cpuid_entry2& entry : cpuid) to_message(entry, *identity.add_cpuid());
  for (const state::CpuidLeaf& leaf : vcpu.cpuid()) {
    if (leaf.function() == 1) {
      set_signature(identity, leaf.eax());
    } else if (leaf.function() >= 0x8000'0002 && leaf.function() <= 0x8000'0004) {
      for (const std::uint32_t part : {leaf.eax(), leaf.ebx(), leaf.ecx(), leaf.edx()})
        append_register(brand, part);
    }
  }
  identity.set_brand(brand.substr(0, brand.find('\0')));
  for (const state::Msr& msr : vcpu.msrs()) identity.add_msr_indices(msr.index());
  identity.set_xcr0(vcpu.xcr0());
  identity.set_tsc_khz(vcpu.tsc_khz());
  return identity;
}

}  // namespace vmmd::snapshot
