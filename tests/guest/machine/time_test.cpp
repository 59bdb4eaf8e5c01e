// Guest time stands while the machine is paused, and goes on where it stood, here or in another machine.
#include <chrono>
#include <cmath>
#include <thread>

#include <doctest/doctest.h>

#include "tests/guest/machine/fixture.h"

using namespace vmmd;
using namespace vmmd::vm::test;
using Seconds = std::chrono::duration<double>;
using SteadyClock = std::chrono::steady_clock;

namespace {

constexpr std::chrono::milliseconds kPause{300};
constexpr double kPmHz = 3'579'545;
// The guest measures its TSC against the LAPIC timer; the host's own rate may be a little off that.
constexpr double kRateError = 0.01;

struct Reading {
  std::uint64_t tsc = 0;
  std::uint32_t pm = 0;
};

Reading ask(TestVm& vm) {
  vm.console().send("t\n");
  const auto values = numbers(vm.console().next_line("clock "));
  REQUIRE(values.size() == 2);
  return {values[0], static_cast<std::uint32_t>(values[1])};
}

// KVM's back ends without TSC offsets take KVM_VCPU_TSC_OFFSET and do nothing: the guest's TSC is the host's.
bool tsc_can_stand() {
  static const bool can = [] {
    constexpr std::uint64_t kShift = std::uint64_t{1} << 50;
    const auto vm = kvm::VmFd::create(host_kvm());
    REQUIRE(vm);
    const auto vcpu = kvm::VcpuFd::create(*vm, 0);
    REQUIRE(vcpu);
    const auto offset = vcpu->get_tsc_offset();
    REQUIRE(offset);
    if (!*offset) return false;
    const std::uint32_t tsc = 0x10;
    const auto before = vcpu->get_msrs({&tsc, 1});
    REQUIRE(vcpu->set_tsc_offset(**offset + kShift));
    const auto after = vcpu->get_msrs({&tsc, 1});
    const bool moved = after->front().data - before->front().data >= kShift;
    if (!moved) MESSAGE("SKIPPED: this host's KVM cannot offset the TSC, so the guest's runs on in a pause");
    return moved;
  }();
  return can;
}

double tsc_hz(TestVm& vm) {
  return static_cast<double>(vm.machine().vcpus().front()->fd().tsc_khz()) * 1000;
}

// What the guest saw pass is less than what passed here without the time it stood: an upper bound that holds
// however slow the host is.
void check_time(TestVm& vm, Reading before, Reading after, Seconds running) {
  const double tsc = static_cast<double>(after.tsc - before.tsc) / tsc_hz(vm);
  const double pm = static_cast<double>(after.pm - before.pm) / kPmHz;
  CAPTURE(tsc);
  CAPTURE(pm);
  CAPTURE(running.count());
  CHECK(after.tsc > before.tsc);
  CHECK(pm > 0);
  CHECK(pm < running.count() * (1 + kRateError));
  if (!tsc_can_stand()) return;
  CHECK(tsc < running.count() * (1 + kRateError));
  // Both of the guest's clocks passed the same time.
  CHECK(std::abs(tsc - pm) < 0.05 + running.count() * kRateError);
}

// Time from `start` to now, without `stood`.
Seconds since(SteadyClock::time_point start, SteadyClock::duration stood) {
  return SteadyClock::now() - start - stood;
}

}  // namespace

TEST_CASE("TSC and ACPI timer do not jump over a pause") {
  TestVm vm({"clock"});
  vm.boot();
  vm.console().wait_for("clock ");
  const auto start = SteadyClock::now();
  const Reading before = ask(vm);
  SteadyClock::duration stood{};
  for (int i = 0; i < 3; ++i) {
    vm.pause();
    const auto from = SteadyClock::now();
    std::this_thread::sleep_for(kPause);
    stood += SteadyClock::now() - from;
    vm.resume();
  }
  const Reading after = ask(vm);
  check_time(vm, before, after, since(start, stood));
}

TEST_CASE("a guest that was saved long after its pause goes on at the time of the pause") {
  TestVm source({"clock", "", 2});
  source.boot();
  source.console().wait_for("clock ");
  const auto start = SteadyClock::now();
  const Reading before = ask(source);
  source.pause();
  const auto from = SteadyClock::now();
  std::this_thread::sleep_for(kPause);
  const Saved saved = source.save();
  source.destroy();
  std::this_thread::sleep_for(kPause);
  TestVm restored({"clock", "", 2});
  restored.restore(saved);
  std::this_thread::sleep_for(kPause);
  const auto stood = SteadyClock::now() - from;
  restored.resume();
  const Reading after = ask(restored);
  check_time(restored, before, after, since(start, stood));
}

TEST_CASE("a restored guest that is saved again without having run keeps its time") {
  TestVm source({"clock"});
  source.boot();
  source.console().wait_for("clock ");
  const auto start = SteadyClock::now();
  const Reading before = ask(source);
  source.pause();
  const auto from = SteadyClock::now();
  const Saved first = source.save();
  source.destroy();
  TestVm between({"clock"});
  between.restore(first);
  std::this_thread::sleep_for(kPause);
  const Saved second = between.save();
  between.destroy();
  TestVm restored({"clock"});
  restored.restore(second);
  const auto stood = SteadyClock::now() - from;
  restored.resume();
  const Reading after = ask(restored);
  check_time(restored, before, after, since(start, stood));
}

TEST_CASE("saving twice without running gives the same time") {
  TestVm vm({"clock"});
  vm.boot();
  vm.console().wait_for("clock ");
  vm.pause();
  const auto tsc = [](const state::Vcpu& vcpu) {
    for (const state::Msr& msr : vcpu.msrs()) {
      if (msr.index() == 0x10) return msr.value();
    }
    return std::uint64_t{0};
  };
  const std::uint64_t first = tsc(vcpu_of(vm.save_units(), 0));
  CHECK(first != 0);
  CHECK(tsc(vcpu_of(vm.save_units(), 0)) == first);
}
