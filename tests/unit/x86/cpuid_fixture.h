#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <vector>

namespace vmmd::x86::test {

inline kvm_cpuid_entry2 leaf(std::uint32_t function, std::uint32_t index, std::uint32_t eax,
                             std::uint32_t ebx, std::uint32_t ecx, std::uint32_t edx) {
  kvm_cpuid_entry2 entry{};
  entry.function = function;
  entry.index = index;
  entry.eax = eax;
  entry.ebx = ebx;
  entry.ecx = ecx;
  entry.edx = edx;
  return entry;
}

/// The entry, or zeros where there is none: what a guest reads.
inline kvm_cpuid_entry2 find(std::span<const kvm_cpuid_entry2> entries, std::uint32_t function,
                             std::uint32_t index = 0) {
  for (const auto& entry : entries) {
    if (entry.function == function && entry.index == index) return entry;
  }
  return leaf(function, index, 0, 0, 0, 0);
}

constexpr std::uint32_t bits(std::uint32_t word, unsigned low, unsigned count) {
  return (word >> low) & ((1U << count) - 1);
}

/// An Intel server as KVM_GET_SUPPORTED_CPUID shows it, with a PMU, SGX, PT and AMX.
inline std::vector<kvm_cpuid_entry2> intel_host() {
  return {
      leaf(0, 0, 0x16, 0x756E'6547, 0x6C65'746E, 0x4965'6E69),
      leaf(1, 0, 0x0008'06F8, 0x7720'0800, 0xF7FA'B22F, 0x9FAB'FBFF),
      leaf(4, 0, 0xFC00'4121, 0x02C0'003F, 0x3F, 0),      // L1d
      leaf(4, 1, 0xFC00'4122, 0x01C0'003F, 0x3F, 0),      // L1i
      leaf(4, 2, 0xFC00'4143, 0x03C0'003F, 0x7FF, 0),     // L2
      leaf(4, 3, 0xFC1F'C163, 0x0380'003F, 0x1'BFFF, 4),  // L3
      leaf(4, 4, 0, 0, 0, 0),
      leaf(5, 0, 0x40, 0x40, 3, 0x20),
      leaf(7, 0, 2, 0xF3BF'A7EF, 0xFB41'7F5E, 0xFFDD'4432),
      leaf(7, 1, 0x0020'1C30, 0, 0, 0x100),
      leaf(7, 2, 0, 0, 0, 0x17),
      leaf(0xA, 0, 0x0730'0805, 0, 0xF, 0x8603),
      leaf(0xB, 0, 1, 2, 0x100, 0x77),
      leaf(0xD, 0, 0x0006'02E7, 0xA88, 0x2B00, 0),
      leaf(0xD, 1, 0x1F, 0, 0, 0),
      leaf(0xD, 2, 0x100, 0x240, 0, 0),
      leaf(0xD, 5, 0x40, 0x440, 0, 0),
      leaf(0xD, 6, 0x200, 0x480, 0, 0),
      leaf(0xD, 7, 0x400, 0x680, 0, 0),
      leaf(0xD, 9, 8, 0xA80, 0, 0),
      leaf(0xD, 17, 0x40, 0xAC0, 2, 0),
      leaf(0xD, 18, 0x2000, 0xB00, 6, 0),
      leaf(0x14, 0, 1, 0xF, 7, 0),
      leaf(0x4000'0000, 0, 0x4000'0001, 0x4B4D'564B, 0x564B'4D56, 0x4D),
      leaf(0x4000'0001, 0, 0x0100'7EFB, 0, 0, 0),
      leaf(0x8000'0000, 0, 0x8000'0008, 0, 0, 0),
      leaf(0x8000'0001, 0, 0, 0, 0x121, 0x2C10'0800),
      leaf(0x8000'0002, 0, 0, 0, 0, 0),
      leaf(0x8000'0007, 0, 0, 0, 0, 0x100),
      leaf(0x8000'0008, 0, 0x0034'3934, 0x200, 0, 0),
  };
}

/// An AMD server, as one of our hosts answers.
inline std::vector<kvm_cpuid_entry2> amd_host() {
  return {
      leaf(0, 0, 0x1C, 0x6874'7541, 0x444D'4163, 0x6974'6E65),
      leaf(1, 0, 0x00B0'0F21, 0x0102'0800, 0x8120'2000, 0x078B'FBFF),
      leaf(4, 0, 0, 0, 0, 0),
      leaf(7, 0, 1, 0x0180'0002, 0x104, 0x2000'0000),
      leaf(0xB, 0, 0, 0, 0, 1),
      leaf(0x4000'0000, 0, 0x4000'0001, 0x4B4D'564B, 0x564B'4D56, 0x4D),
      leaf(0x4000'0001, 0, 0x0100'7EFB, 0, 0, 0),
      leaf(0x8000'0000, 0, 0x8000'0021, 0x6874'7541, 0x444D'4163, 0x6974'6E65),
      leaf(0x8000'0001, 0, 0x00B0'0F21, 0x4000'0000, 0x00C0'0397, 0x23D3'FBFF),
      leaf(0x8000'0008, 0, 0x3030, 0x5002'0005, 0x7001, 0),
      leaf(0x8000'000A, 0, 1, 8, 0, 0),
      leaf(0x8000'001D, 0, 0x121, 0x02C0'003F, 0x3F, 0),
      leaf(0x8000'001D, 1, 0x122, 0x01C0'003F, 0x3F, 0),
      leaf(0x8000'001D, 2, 0x143, 0x03C0'003F, 0x3FF, 2),
      leaf(0x8000'001D, 3, 0x4163, 0x03C0'003F, 0x7FFF, 1),
      leaf(0x8000'001D, 4, 0, 0, 0, 0),
      leaf(0x8000'001E, 0, 0, 0, 0, 0),
      leaf(0x8000'0021, 0, 0x204, 0, 6, 0),
  };
}

}  // namespace vmmd::x86::test
