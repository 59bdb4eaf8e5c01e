#include "daemon/x86/msr.h"

#include <algorithm>
#include <array>

#include <doctest/doctest.h>

using namespace vmmd::x86;

namespace {

// As an AMD host with Linux 6.18 answers, and PMU, Hyper-V and nested ones of other hosts.
constexpr std::array<std::uint32_t, 30> kList{
    0x6E0, 0x174, 0x175, 0x176,      0xC0000081, 0xC0000083, 0xC0000102, 0xC0000084, 0xC0000082, 0x10,
    0x277, 0x12,  0x11,  0x4B564D01, 0x4B564D00, 0x4B564D07, 0x3B,       0x10A,      0x345,      0x1A0,
    0x480, 0x3A,  0xC1,  0x186,      0x40000000, 0x40000118, 0x38F,      0xC0010200, 0xDA0,      0x10};

std::size_t position(const std::vector<std::uint32_t>& list, std::uint32_t index) {
  return static_cast<std::size_t>(std::ranges::find(list, index) - list.begin());
}

bool contains(const std::vector<std::uint32_t>& list, std::uint32_t index) {
  return position(list, index) != list.size();
}

}  // namespace

TEST_CASE("the TSC deadline is set after the TSC, and the TSC after its adjustment") {
  const auto saved = saved_msr_indices(kList);
  REQUIRE(contains(saved, kMsrTscDeadline));
  CHECK(position(saved, kMsrTsc) < position(saved, kMsrTscDeadline));
  CHECK(position(saved, kMsrTscAdjust) < position(saved, kMsrTsc));
}

TEST_CASE("KVM's own MSRs come last and are there although KVM does not list them") {
  const auto saved = saved_msr_indices(kList);
  for (std::uint32_t index = 0x4B56'4D00; index <= 0x4B56'4D06; ++index) {
    CAPTURE(index);
    REQUIRE(contains(saved, index));
    CHECK(position(saved, index) > position(saved, kMsrTscDeadline));
    CHECK(position(saved, index) > position(saved, kMsrMtrrDefType));
  }
  CHECK(position(saved, 0x4B56'4D06) < position(saved, 0x4B56'4D02));  // vector before enable
}

TEST_CASE("no MSR is saved twice") {
  auto saved = saved_msr_indices(kList);
  std::ranges::sort(saved);
  CHECK(std::ranges::adjacent_find(saved) == saved.end());
}

TEST_CASE("what KVM lists and nobody filters is saved") {
  const auto saved = saved_msr_indices(kList);
  for (const std::uint32_t index : {0x174U, 0x175U, 0x176U, 0xC000'0081U, 0xC000'0082U, 0xC000'0083U,
                                    0xC000'0084U, 0xC000'0102U, 0x277U, 0x1A0U, 0x10AU, 0x3AU, 0xDA0U}) {
    CAPTURE(index);
    CHECK(contains(saved, index));
  }
}

TEST_CASE("performance counters, Hyper-V and aliases are left out") {
  const auto saved = saved_msr_indices(kList);
  for (const std::uint32_t index : {0xC1U, 0x186U, 0x345U, 0x38FU, 0xC001'0200U, 0x4000'0000U, 0x4000'0118U,
                                    0x11U, 0x12U, 0x4B56'4D07U}) {
    CAPTURE(index);
    CHECK(!contains(saved, index));
  }
}

TEST_CASE("what KVM_SET_SREGS and KVM_SET_LAPIC carry is left out") {
  const std::array<std::uint32_t, 6> list{0x1B, 0xC000'0080, 0xC000'0100, 0xC000'0101, 0x808, 0x277};
  const auto saved = saved_msr_indices(list);
  CHECK(contains(saved, 0x277));
  for (std::size_t i = 0; i < 5; ++i) CHECK(!contains(saved, list[i]));
}

TEST_CASE("MTRRs are saved although KVM never lists them, the enabling one last") {
  const auto saved = saved_msr_indices({});
  for (const std::uint32_t index : {0x200U, 0x20FU, 0x250U, 0x258U, 0x259U, 0x268U, 0x26FU}) {
    CAPTURE(index);
    CHECK(position(saved, index) < position(saved, kMsrMtrrDefType));
  }
  CHECK(contains(saved, kMsrMtrrDefType));
}

TEST_CASE("FEATURE_CONTROL is set before the VMX MSRs that it guards") {
  const auto saved = saved_msr_indices(kList);
  CHECK(position(saved, 0x3A) < position(saved, 0x480));
}

TEST_CASE("an MSR that this KVM does not list is not invented") {
  const auto saved = saved_msr_indices(std::array<std::uint32_t, 1>{0x277});
  CHECK(!contains(saved, kMsrTscDeadline));
  CHECK(!contains(saved, kMsrTsc));
}

TEST_CASE("a deadline that has passed is replaced by the TSC") {
  std::array<kvm_msr_entry, 2> msrs{{{kMsrTscDeadline, 0, 0}, {kMsrTsc, 0, 0x0123'4567'89AB'CDEF}}};
  fix_saved_msrs(msrs);
  CHECK(msrs[0].data == 0x0123'4567'89AB'CDEF);
}

TEST_CASE("a deadline still to come stays") {
  std::array<kvm_msr_entry, 2> msrs{{{kMsrTsc, 0, 0x1000}, {kMsrTscDeadline, 0, 0x2345}}};
  fix_saved_msrs(msrs);
  CHECK(msrs[1].data == 0x2345);
  CHECK(msrs[0].data == 0x1000);
}

TEST_CASE("host facts may be refused, a guest's state may not") {
  CHECK(is_optional_msr(kMsrArchCapabilities));
  CHECK(is_optional_msr(0x8B));
  CHECK(is_optional_msr(0x48C));
  CHECK(!is_optional_msr(kMsrTsc));
  CHECK(!is_optional_msr(kMsrTscDeadline));
  CHECK(!is_optional_msr(0x277));
  CHECK(!is_optional_msr(0x4B56'4D01));
  CHECK(!is_optional_msr(0xC000'0082));
}

TEST_CASE("a booting vCPU caches RAM and keeps fast strings") {
  const auto msrs = boot_msrs();
  REQUIRE(msrs.size() == 2);
  CHECK(msrs[0].index == kMsrMiscEnable);
  CHECK((msrs[0].data & 1) == 1);
  CHECK(msrs[1].index == kMsrMtrrDefType);
  CHECK(msrs[1].data == 0x806);
}
