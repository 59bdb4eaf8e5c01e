#include "daemon/snapshot/cpu/cpu_features.h"

#include <set>
#include <tuple>

#include <doctest/doctest.h>

#include "daemon/x86/cpuid.h"
#include "tests/unit/x86/cpuid_fixture.h"

using namespace vmmd::snapshot;
using namespace vmmd::x86;
using namespace vmmd::x86::test;

namespace {

using Names = std::vector<std::string>;

/// Checks against positions known by heart from the manuals.
std::string name(std::uint32_t function, std::uint32_t index, CpuidRegister reg, unsigned bit) {
  return feature_name({function, index, reg, bit});
}

}  // namespace

TEST_CASE("features have the names that people know") {
  CHECK(name(1, 0, CpuidRegister::Ecx, 28) == "avx");
  CHECK(name(1, 0, CpuidRegister::Ecx, 26) == "xsave");
  CHECK(name(1, 0, CpuidRegister::Ecx, 30) == "rdrand");
  CHECK(name(1, 0, CpuidRegister::Edx, 26) == "sse2");
  CHECK(name(7, 0, CpuidRegister::Ebx, 5) == "avx2");
  CHECK(name(7, 0, CpuidRegister::Ebx, 31) == "avx512vl");
  CHECK(name(7, 0, CpuidRegister::Ecx, 16) == "la57");
  CHECK(name(7, 0, CpuidRegister::Ecx, 22) == "rdpid");
  CHECK(name(7, 0, CpuidRegister::Edx, 29) == "arch_capabilities");
  CHECK(name(7, 0, CpuidRegister::Edx, 24) == "amx_tile");
  CHECK(name(7, 1, CpuidRegister::Eax, 5) == "avx512_bf16");
  CHECK(name(7, 1, CpuidRegister::Eax, 23) == "avx_ifma");
  CHECK(name(0xD, 1, CpuidRegister::Eax, 3) == "xsaves");
  CHECK(name(0x8000'0001, 0, CpuidRegister::Ecx, 22) == "topoext");
  CHECK(name(0x8000'0001, 0, CpuidRegister::Edx, 29) == "lm");
  CHECK(name(0x8000'0001, 0, CpuidRegister::Edx, 27) == "rdtscp");
  CHECK(name(0x8000'0008, 0, CpuidRegister::Ebx, 24) == "amd_ssbd");
  CHECK(name(0x8000'0008, 0, CpuidRegister::Ebx, 28) == "amd_psfd");
  CHECK(name(0x8000'0021, 0, CpuidRegister::Eax, 8) == "auto_ibrs");
  CHECK(name(0x4000'0001, 0, CpuidRegister::Eax, 24) == "kvmclock_stable_bit");
  CHECK(name(0x4000'0001, 0, CpuidRegister::Eax, 14) == "kvm_asyncpf_int");
}

TEST_CASE("a bit without a name says where it is") {
  CHECK(name(7, 0, CpuidRegister::Edx, 17) == "cpuid 0x7.0:edx[17]");
  CHECK(name(0x8000'0008, 0, CpuidRegister::Ebx, 11) == "cpuid 0x80000008.0:ebx[11]");
}

TEST_CASE("no name and no bit is there twice") {
  std::set<std::string_view> names;
  std::set<std::tuple<std::uint32_t, std::uint32_t, CpuidRegister, unsigned>> places;
  for (const auto& [feature, text] : named_features()) {
    CAPTURE(text);
    CHECK(names.insert(text).second);
    CHECK(places.emplace(feature.leaf, feature.subleaf, feature.reg, feature.bit).second);
    CHECK(feature.bit < 32);
  }
}

TEST_CASE("a host lacks nothing of what it offers") {
  CHECK(missing_features(intel_host(), intel_host()).empty());
  CHECK(missing_features(amd_host(), amd_host()).empty());
}

TEST_CASE("a guest's table made on a host runs on that host") {
  const CpuModel model{.vcpus = 8, .tsc_khz = 2'000'000};
  for (const auto& host : {intel_host(), amd_host()}) {
    const auto made = CpuidTemplate::build(host, model);
    REQUIRE(made);
    CHECK(missing_features(made->for_vcpu(7), host) == Names{});
  }
}

TEST_CASE("what the host lacks is named in the order of the leaves") {
  auto host = intel_host();
  for (auto& entry : host) {
    if (entry.function == 1) entry.ecx &= ~(1U << 28);
    if (entry.function == 7 && entry.index == 0) {
      entry.ebx &= ~(1U << 5);
      entry.ebx &= ~(1U << 16);
    }
    if (entry.function == 0x4000'0001) entry.eax &= ~(1U << 14);
  }
  CHECK(missing_features(intel_host(), host) == Names{"avx", "avx2", "avx512f", "kvm_asyncpf_int"});
}

TEST_CASE("a leaf that the host has not is all missing") {
  auto host = intel_host();
  std::erase_if(host, [](const auto& entry) { return entry.function == 7 && entry.index == 2; });
  CHECK(missing_features(intel_host(), host) == Names{"psfd", "ipred_ctrl", "rrsba_ctrl", "bhi_ctrl"});
}

TEST_CASE("AMD's copies of leaf 1's bits are not reported again") {
  auto host = amd_host();
  for (auto& entry : host) {
    if (entry.function == 1) entry.edx &= ~(1U << 23);
    if (entry.function == 0x8000'0001) entry.edx &= ~(1U << 23);
  }
  CHECK(missing_features(amd_host(), host) == Names{"mmx"});
}

TEST_CASE("run-time state and topology are no features") {
  auto wanted = amd_host();
  for (auto& entry : wanted) {
    if (entry.function == 1) entry.ecx |= 1U << 27;  // OSXSAVE
    if (entry.function == 1) entry.edx |= 1U << 28;  // HTT
    if (entry.function == 7) entry.ecx |= 1U << 4;   // OSPKE
  }
  CHECK(missing_features(wanted, amd_host()).empty());
}
