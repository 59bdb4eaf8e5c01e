#include "daemon/snapshot/cpu/cpu_features.h"

#include <array>

#include <fmt/format.h>

#include "daemon/snapshot/cpu/cpu_feature_names.h"

namespace vmmd::snapshot {
namespace {

constexpr std::uint32_t bit(unsigned n) {
  return 1U << n;
}

/// A register whose bits each say that the CPU can do something, and the bits among them that do not.
struct FeatureWord {
  std::uint32_t leaf;
  std::uint32_t subleaf;
  CpuidRegister reg;
  std::uint32_t ignored;
};

constexpr std::array kWords{
    // TSC deadline, hypervisor: the VMM sets them, KVM_GET_SUPPORTED_CPUID does not; OSXSAVE follows CR4.
    FeatureWord{0x1, 0, CpuidRegister::Ecx, bit(24) | bit(27) | bit(31)},
    FeatureWord{0x1, 0, CpuidRegister::Edx, bit(28)},  // HTT: topology
    // "x87 data pointer only on exceptions" and "no FCS/FDS" take something away.
    FeatureWord{0x7, 0, CpuidRegister::Ebx, bit(6) | bit(13)},
    FeatureWord{0x7, 0, CpuidRegister::Ecx, bit(4)},   // OSPKE follows CR4
    FeatureWord{0x7, 0, CpuidRegister::Edx, bit(15)},  // hybrid: a description
    FeatureWord{0x7, 1, CpuidRegister::Eax, 0},
    FeatureWord{0x7, 1, CpuidRegister::Edx, 0},
    FeatureWord{0x7, 2, CpuidRegister::Edx, 0},
    FeatureWord{0xD, 0, CpuidRegister::Eax, 0},
    FeatureWord{0xD, 1, CpuidRegister::Eax, 0},
    FeatureWord{0x8000'0001, 0, CpuidRegister::Ecx, bit(1)},  // CMP_LEGACY: topology
    // AMD repeats leaf 1's bits here: once is enough.
    FeatureWord{0x8000'0001, 0, CpuidRegister::Edx, 0x0183'F3FF},
    FeatureWord{0x8000'0007, 0, CpuidRegister::Edx, ~bit(8)},  // the rest is power management
    FeatureWord{0x8000'0008, 0, CpuidRegister::Ebx, 0},
    FeatureWord{0x8000'0021, 0, CpuidRegister::Eax, 0},
    FeatureWord{0x4000'0001, 0, CpuidRegister::Eax, 0},
};

constexpr std::array<std::string_view, 4> kRegisterNames{"eax", "ebx", "ecx", "edx"};

std::uint32_t word_of(std::span<const kvm_cpuid_entry2> cpuid, const FeatureWord& word) {
  for (const auto& entry : cpuid) {
    if (entry.function != word.leaf || entry.index != word.subleaf) continue;
    switch (word.reg) {
      case CpuidRegister::Eax:
        return entry.eax;
      case CpuidRegister::Ebx:
        return entry.ebx;
      case CpuidRegister::Ecx:
        return entry.ecx;
      case CpuidRegister::Edx:
        return entry.edx;
    }
  }
  return 0;
}

}  // namespace

std::span<const NamedFeature> named_features() {
  return kFeatureNames;
}

std::string feature_name(const CpuFeature& feature) {
  for (const auto& named : kFeatureNames) {
    if (named.feature == feature) return std::string(named.name);
  }
  return fmt::format("cpuid {:#x}.{}:{}[{}]", feature.leaf, feature.subleaf,
                     kRegisterNames[static_cast<std::size_t>(feature.reg)], feature.bit);
}

std::vector<std::string> missing_features(std::span<const kvm_cpuid_entry2> wanted,
                                          std::span<const kvm_cpuid_entry2> host) {
  std::vector<std::string> missing;
  for (const auto& word : kWords) {
    const std::uint32_t lacking = word_of(wanted, word) & ~word_of(host, word) & ~word.ignored;
    for (unsigned i = 0; i < 32; ++i) {
      if ((lacking & bit(i)) != 0) missing.push_back(feature_name({word.leaf, word.subleaf, word.reg, i}));
    }
  }
  return missing;
}

}  // namespace vmmd::snapshot
