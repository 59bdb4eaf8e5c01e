#include "daemon/x86/cpuid.h"

#include <array>
#include <cstring>
#include <filesystem>

#include <doctest/doctest.h>

#include "tests/unit/support/temp_dir.h"
#include "tests/unit/x86/cpuid_fixture.h"

using namespace vmmd;
using namespace vmmd::x86;
using namespace vmmd::x86::test;

namespace {

std::vector<kvm_cpuid_entry2> built(const std::vector<kvm_cpuid_entry2>& host, const CpuModel& model) {
  auto made = CpuidTemplate::build(host, model);
  REQUIRE(made);
  return made->base();
}

}  // namespace

TEST_CASE("the guest sees a hypervisor, x2APIC and the TSC deadline timer") {
  auto host = amd_host();
  const auto one = find(built(host, {}), 1);
  CHECK(bits(one.ecx, 31, 1) == 1);
  CHECK(bits(one.ecx, 21, 1) == 1);
  CHECK(bits(one.ecx, 24, 1) == 1);
}

TEST_CASE("the guest sees no performance counters") {
  const auto intel = built(intel_host(), {});
  CHECK(find(intel, 0xA).eax == 0);
  CHECK(bits(find(intel, 1).ecx, 15, 1) == 0);
  CHECK(bits(find(intel, 1).ecx, 2, 1) == 0);
  CHECK(bits(find(intel, 1).edx, 21, 1) == 0);
  CHECK(bits(find(intel, 7).edx, 19, 1) == 0);
  CHECK(bits(find(built(amd_host(), {}), 0x8000'0001).ecx, 23, 1) == 0);
}

TEST_CASE("the guest sees no MONITOR, SGX, Processor Trace or cache allocation") {
  const auto entries = built(intel_host(), {});
  CHECK(bits(find(entries, 1).ecx, 3, 1) == 0);
  CHECK(find(entries, 5).edx == 0);
  CHECK(find(entries, 0x14).eax == 0);
  const auto seven = find(entries, 7);
  for (const unsigned hidden : {2U, 12U, 15U, 25U}) CHECK(bits(seven.ebx, hidden, 1) == 0);
  CHECK(bits(seven.ebx, 5, 1) == 1);   // AVX2
  CHECK(bits(seven.ebx, 16, 1) == 1);  // AVX-512F
}

TEST_CASE("AMX is hidden with its XSAVE state unless asked for") {
  const auto without = built(intel_host(), {});
  CHECK(bits(find(without, 7).edx, 24, 1) == 0);
  CHECK(bits(find(without, 7, 1).eax, 21, 1) == 0);
  CHECK(find(without, 0xD).eax == 0x2E7);
  CHECK(find(without, 0xD).ecx == 0xA88);  // up to PKRU
  CHECK(find(without, 0xD, 18).eax == 0);
  CHECK(bits(find(without, 0xD, 1).eax, 4, 1) == 0);
  const auto with = built(intel_host(), {.amx = true});
  CHECK(bits(find(with, 7).edx, 24, 1) == 1);
  CHECK(find(with, 0xD).ecx == 0x2B00);
  CHECK(find(with, 0xD, 18).eax == 0x2000);
}

TEST_CASE("nested virtualization is hidden when not wanted") {
  CHECK(bits(find(built(intel_host(), {}), 1).ecx, 5, 1) == 1);
  CHECK(bits(find(built(intel_host(), {.nested = false}), 1).ecx, 5, 1) == 0);
  CHECK(bits(find(built(amd_host(), {}), 0x8000'0001).ecx, 2, 1) == 1);
  const auto amd = built(amd_host(), {.nested = false});
  CHECK(bits(find(amd, 0x8000'0001).ecx, 2, 1) == 0);
  CHECK(find(amd, 0x8000'000A).eax == 0);
}

TEST_CASE("physical address bits are the fewer of model's and host's") {
  CHECK(bits(find(built(intel_host(), {.max_phys_bits = 46}), 0x8000'0008).eax, 0, 8) == 46);
  CHECK(bits(find(built(intel_host(), {.max_phys_bits = 57}), 0x8000'0008).eax, 0, 8) == 52);
  const auto eax = find(built(intel_host(), {.max_phys_bits = 40}), 0x8000'0008).eax;
  CHECK(bits(eax, 16, 8) == 40);
  CHECK(bits(eax, 8, 8) == 57);  // linear addresses stay
  CHECK(bits(find(built(amd_host(), {.max_phys_bits = 40}), 0x8000'0008).eax, 16, 8) == 0);
}

TEST_CASE("the host's physical address bits end where KVM can map no more") {
  CHECK(host_phys_bits(intel_host()) == 52);
  CHECK(host_phys_bits(amd_host()) == 48);
  CHECK(host_phys_bits({}) == 36);
  const std::array entries{leaf(0x8000'0008, 0, 0x0030'3934, 0, 0, 0)};
  CHECK(host_phys_bits(entries) == 48);
}

TEST_CASE("KVM's leaves stay as they are, and the TSC's frequency is added when known") {
  const auto plain = built(amd_host(), {});
  CHECK(find(plain, 0x4000'0000).eax == 0x4000'0001);
  CHECK(find(plain, 0x4000'0000).ebx == 0x4B4D'564B);
  CHECK(find(plain, 0x4000'0001).eax == 0x0100'7EFB);
  CHECK(find(plain, 0x4000'0010).eax == 0);
  const auto timed = built(amd_host(), {.tsc_khz = 2'445'123});
  CHECK(find(timed, 0x4000'0000).eax == 0x4000'0010);
  CHECK(find(timed, 0x4000'0010).eax == 2'445'123);
  CHECK(find(timed, 0x4000'0010).ebx == 1'000'000);
}

TEST_CASE("hypercalls between vCPUs are offered only where the CPU virtualizes") {
  constexpr std::uint32_t kAll = ~0U;
  const std::vector<kvm_cpuid_entry2> host{leaf(1, 0, 0, 0, 0, 0), leaf(0x4000'0001, 0, kAll, 0, 0, 0)};
  CHECK(find(built(host, {.hardware_kvm = true}), 0x4000'0001).eax == kAll);
  CHECK(find(built(host, {.hardware_kvm = false}), 0x4000'0001).eax ==
        (kAll & ~(1U << 7 | 1U << 11 | 1U << 13)));  // PV_UNHALT, PV_SEND_IPI, PV_SCHED_YIELD
}

TEST_CASE("a KVM that offers VMX or SVM, or has a module for them, runs guests by hardware") {
  const testing::TempDir modules;
  std::filesystem::create_directory(modules / "kvm");
  const auto uses = [&](std::uint32_t leaf1_ecx, std::uint32_t extended_ecx) {
    const std::vector<kvm_cpuid_entry2> host{leaf(1, 0, 0, 0, leaf1_ecx, 0),
                                             leaf(0x8000'0001, 0, 0, 0, extended_ecx, 0)};
    return kvm_uses_hardware(host, modules / ".");
  };
  CHECK_FALSE(uses(0, 0));
  CHECK_FALSE(kvm_uses_hardware({}, modules / "."));
  CHECK(uses(1U << 5, 0));
  CHECK(uses(0, 1U << 2));
  SUBCASE("VMX, not offered to guests") {
    std::filesystem::create_directory(modules / "kvm_intel");
    CHECK(uses(0, 0));
  }
  SUBCASE("SVM, not offered to guests") {
    std::filesystem::create_directory(modules / "kvm_amd");
    CHECK(uses(0, 0));
  }
  SUBCASE("another module") {
    std::filesystem::create_directory(modules / "kvm_pvm");
    CHECK_FALSE(uses(0, 0));
  }
}

TEST_CASE("the brand string fills three leaves and ends with a zero") {
  const auto entries = built(intel_host(), {.brand = std::string(60, 'x')});
  CHECK(find(entries, 0x8000'0002).eax == 0x7878'7878);
  CHECK(find(entries, 0x8000'0004).edx == 0x0078'7878);
}

TEST_CASE("an impossible model makes no table") {
  CHECK(!CpuidTemplate::build(amd_host(), {.vcpus = 3, .topology = CpuTopology{2, 2, 1, 1}}));
}

TEST_CASE("vendors are told apart") {
  CHECK(cpu_vendor(intel_host()) == CpuVendor::Intel);
  CHECK(cpu_vendor(amd_host()) == CpuVendor::Amd);
  CHECK(cpu_vendor({}) == CpuVendor::Other);
}
