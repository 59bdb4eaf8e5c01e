#include <array>
#include <set>

#include <doctest/doctest.h>

#include "daemon/x86/cpuid.h"
#include "tests/unit/x86/cpuid_fixture.h"

using namespace vmmd;
using namespace vmmd::x86;
using namespace vmmd::x86::test;

namespace {

CpuModel model_of(unsigned threads, unsigned cores, unsigned dies, unsigned packages) {
  return {.vcpus = threads * cores * dies * packages,
          .topology = CpuTopology{threads, cores, dies, packages}};
}

std::vector<kvm_cpuid_entry2> vcpu_of(const std::vector<kvm_cpuid_entry2>& host, const CpuModel& model,
                                      unsigned vcpu) {
  const auto made = CpuidTemplate::build(host, model);
  REQUIRE(made);
  return made->for_vcpu(vcpu);
}

}  // namespace

TEST_CASE("without a topology APIC ids count up") {
  const CpuModel model{.vcpus = 255};
  for (unsigned i = 0; i < 255; ++i) CHECK(apic_id_of(i, model) == i);
}

TEST_CASE("levels that are not powers of two leave gaps in the APIC ids") {
  const CpuModel model = model_of(1, 3, 1, 2);  // cores need two bits
  const std::array<std::uint32_t, 6> expected{0, 1, 2, 4, 5, 6};
  for (unsigned i = 0; i < 6; ++i) CHECK(apic_id_of(i, model) == expected[i]);
}

TEST_CASE("each level has its own bit field in the APIC id") {
  const CpuModel model = model_of(2, 3, 3, 2);  // one, two and two bits, then the package
  CHECK(apic_id_of(0, model) == 0);
  CHECK(apic_id_of(1, model) == 0b1);
  CHECK(apic_id_of(2, model) == 0b01'0);
  CHECK(apic_id_of(5, model) == 0b10'1);
  CHECK(apic_id_of(6, model) == 0b01'00'0);
  CHECK(apic_id_of(17, model) == 0b10'10'1);
  CHECK(apic_id_of(18, model) == 0b1'00'00'0);
  CHECK(apic_id_of(35, model) == 0b1'10'10'1);
}

TEST_CASE("APIC ids are unique in any topology") {
  for (const auto& model : {model_of(3, 5, 17, 1), model_of(1, 7, 1, 36), model_of(2, 127, 1, 1),
                            model_of(1, 1, 1, 255), model_of(15, 1, 17, 1)}) {
    std::set<std::uint32_t> ids;
    for (unsigned i = 0; i < model.vcpus; ++i) ids.insert(apic_id_of(i, model));
    CHECK(ids.size() == model.vcpus);
  }
}

TEST_CASE("a model that contradicts itself is refused") {
  CHECK(check_cpu_model({.vcpus = 1}));
  CHECK(check_cpu_model({.vcpus = 255}));
  CHECK(!check_cpu_model({.vcpus = 0}));
  CHECK(!check_cpu_model({.vcpus = 256}));
  CHECK(!check_cpu_model({.vcpus = 4, .topology = CpuTopology{2, 3, 1, 1}}));
  CHECK(!check_cpu_model({.vcpus = 4, .topology = CpuTopology{0, 4, 1, 1}}));
  // A product that wraps around must not pass.
  CHECK(!check_cpu_model({.vcpus = 1, .topology = CpuTopology{0xFFFF'FFFF, 0xFFFF'FFFF, 1, 1}}));
}

TEST_CASE("leaf 1 carries the initial APIC id, the count and HTT") {
  const CpuModel model = model_of(2, 3, 1, 2);
  const auto entries = vcpu_of(intel_host(), model, 11);
  const auto one = find(entries, 1);
  CHECK(bits(one.ebx, 24, 8) == 0b1'10'1);
  CHECK(bits(one.ebx, 16, 8) == 8);    // ids in a package
  CHECK(bits(one.ebx, 8, 8) == 0x08);  // CLFLUSH line stays
  CHECK(bits(one.edx, 28, 1) == 1);
}

TEST_CASE("a package of one thread has no HTT") {
  const auto one = find(vcpu_of(intel_host(), model_of(1, 1, 1, 4), 3), 1);
  CHECK(bits(one.edx, 28, 1) == 0);
  CHECK(bits(one.ebx, 16, 8) == 1);
  CHECK(bits(one.ebx, 24, 8) == 3);
}

TEST_CASE("counts too large for leaf 1 and leaf 4 saturate") {
  const auto entries = vcpu_of(intel_host(), {.vcpus = 255}, 254);
  CHECK(bits(find(entries, 1).ebx, 16, 8) == 255);
  CHECK(bits(find(entries, 1).ebx, 24, 8) == 254);
  CHECK(bits(find(entries, 4, 3).eax, 26, 6) == 63);
  CHECK(bits(find(entries, 4, 3).eax, 14, 12) == 255);
}

TEST_CASE("leaf 4 shares inner caches in a core and the outer one in a die") {
  const auto entries = vcpu_of(intel_host(), model_of(2, 3, 2, 1), 0);
  for (const std::uint32_t cache : {0U, 1U, 2U}) {
    CHECK(bits(find(entries, 4, cache).eax, 14, 12) == 1);  // two ids
    CHECK(bits(find(entries, 4, cache).eax, 26, 6) == 7);   // 4 core ids in each of 2 dies
  }
  CHECK(bits(find(entries, 4, 3).eax, 14, 12) == 7);  // 2 threads, 4 core ids
  CHECK(find(entries, 4, 4).eax == 0);                // the end stays the end
  CHECK(find(entries, 4, 3).ebx == 0x0380'003F);
}

TEST_CASE("leaf 0xB describes threads and cores") {
  const auto entries = vcpu_of(intel_host(), model_of(2, 3, 1, 2), 7);
  const auto threads = find(entries, 0xB, 0);
  CHECK(threads.eax == 1);
  CHECK(threads.ebx == 2);
  CHECK(threads.ecx == 0x100);
  CHECK(threads.edx == 0b1'00'1);
  CHECK(threads.flags == KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
  const auto cores = find(entries, 0xB, 1);
  CHECK(cores.eax == 3);
  CHECK(cores.ebx == 6);
  CHECK(cores.ecx == 0x201);
  CHECK(cores.edx == 0b1'00'1);
  CHECK(find(entries, 0xB, 2).ecx == 2);  // level type 0: no more
  CHECK(find(entries, 0xB, 2).ebx == 0);
}

TEST_CASE("dies appear in leaf 0x1F, which a package of one die has not") {
  const auto many = vcpu_of(intel_host(), model_of(1, 2, 3, 1), 5);
  CHECK(find(many, 0).eax == 0x1F);
  CHECK(find(many, 0x1F, 1).eax == 1);
  CHECK(find(many, 0x1F, 1).ebx == 2);
  const auto die = find(many, 0x1F, 2);
  CHECK(die.eax == 3);
  CHECK(die.ebx == 6);
  CHECK(die.ecx == 0x502);
  CHECK(die.edx == 0b10'1);
  const auto single = vcpu_of(intel_host(), model_of(1, 6, 1, 1), 5);
  CHECK(find(single, 0).eax == 0x16);
  CHECK(find(single, 0x1F, 0).ebx == 0);
}

TEST_CASE("a host without leaf 0xB still shows it to the guest") {
  auto host = intel_host();
  std::erase_if(host, [](const auto& entry) { return entry.function == 0xB; });
  host[0].eax = 7;
  const auto entries = vcpu_of(host, {.vcpus = 2}, 1);
  CHECK(find(entries, 0).eax == 0xB);
  CHECK(find(entries, 0xB, 1).edx == 1);
}

TEST_CASE("AMD: counts, id width and CMP_LEGACY") {
  const auto entries = vcpu_of(amd_host(), model_of(2, 3, 1, 2), 0);
  CHECK(bits(find(entries, 0x8000'0008).ecx, 0, 8) == 5);
  CHECK(bits(find(entries, 0x8000'0008).ecx, 12, 4) == 3);
  CHECK(bits(find(entries, 0x8000'0001).ecx, 1, 1) == 1);
  const auto one = vcpu_of(amd_host(), {.vcpus = 1}, 0);
  CHECK(bits(find(one, 0x8000'0001).ecx, 1, 1) == 0);
  CHECK(bits(find(one, 0x8000'0008).ecx, 0, 8) == 0);
}

TEST_CASE("AMD: leaf 0x8000'001E gives each vCPU its core and node") {
  const auto entries = vcpu_of(amd_host(), model_of(2, 3, 2, 2), 23);  // the last
  const auto node = find(entries, 0x8000'001E);
  CHECK(node.eax == 0b1'1'10'1);
  CHECK(bits(node.ebx, 0, 8) == 0b1'10);
  CHECK(bits(node.ebx, 8, 8) == 1);  // two threads
  CHECK(bits(node.ecx, 0, 8) == 3);  // of four nodes
  CHECK(bits(node.ecx, 8, 3) == 1);  // two in a package
}

TEST_CASE("AMD: caches are shared as on Intel") {
  const auto entries = vcpu_of(amd_host(), model_of(2, 3, 2, 1), 0);
  CHECK(bits(find(entries, 0x8000'001D, 2).eax, 14, 12) == 1);
  CHECK(bits(find(entries, 0x8000'001D, 3).eax, 14, 12) == 7);
  CHECK(find(entries, 0x8000'001D, 4).eax == 0);
}

TEST_CASE("AMD: a host that has TOPOEXT but not its leaf gets the leaf") {
  auto host = amd_host();
  std::erase_if(host, [](const auto& entry) { return entry.function == 0x8000'001E; });
  const auto entries = vcpu_of(host, {.vcpus = 4}, 3);
  CHECK(find(entries, 0x8000'001E).eax == 3);
}

TEST_CASE("vCPUs differ in their APIC id only") {
  const auto made = CpuidTemplate::build(amd_host(), {.vcpus = 8});
  REQUIRE(made);
  const auto first = made->for_vcpu(0);
  const auto last = made->for_vcpu(7);
  REQUIRE(first.size() == last.size());
  std::set<std::uint32_t> different;
  for (std::size_t i = 0; i < first.size(); ++i) {
    const auto& a = first[i];
    const auto& b = last[i];
    if (a.eax != b.eax || a.ebx != b.ebx || a.ecx != b.ecx || a.edx != b.edx) different.insert(a.function);
  }
  CHECK(different == std::set<std::uint32_t>{1, 0xB, 0x8000'001E});
}
