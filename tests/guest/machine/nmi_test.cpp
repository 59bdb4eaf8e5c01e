// NMIs, and vCPUs that the guest has not started: KVM keeps an NMI for them that they never take.
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include <doctest/doctest.h>

#include "tests/guest/machine/fixture.h"

using namespace vmmd;
using namespace vmmd::vm::test;
using vm::VcpuStop;

namespace {

// CPU time of the threads of vcpu1 and later, all together.
std::chrono::nanoseconds other_vcpus_time() {
  std::chrono::nanoseconds sum{0};
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::ifstream(task.path() / "comm") >> name;
    if (!name.starts_with("vcpu") || name == "vcpu0") continue;
    std::chrono::nanoseconds::rep ran = 0;
    std::ifstream(task.path() / "schedstat") >> ran;
    sum += std::chrono::nanoseconds(ran);
  }
  return sum;
}

// They wait in the kernel. A vCPU that spins takes its share of the time that this takes.
void check_others_idle(TestVm& vm) {
  constexpr std::chrono::milliseconds kLookFor{300};
  const auto before = other_vcpus_time();
  const auto end = std::chrono::steady_clock::now() + kLookFor;
  while (std::chrono::steady_clock::now() < end) {
    vm.console().send("c\n");
    vm.console().wait_for("counters ");
  }
  CHECK(other_vcpus_time() - before < kLookFor / 5);
}

std::vector<std::uint64_t> nmis(TestVm& vm) {
  vm.console().send("n\n");
  return numbers(vm.console().next_line("nmis"));
}

// An NMI is taken when the vCPU runs again, which is after inject_nmi().
void wait_for_nmis(TestVm& vm, const std::vector<std::uint64_t>& wanted) {
  const auto end = std::chrono::steady_clock::now() + kDeadline;
  auto seen = nmis(vm);
  while (seen != wanted && std::chrono::steady_clock::now() < end) seen = nmis(vm);
  CHECK(seen == wanted);
}

}  // namespace

TEST_CASE("an NMI reaches a vCPU of a running machine") {
  TestVm vm({"tick"});
  vm.boot();
  vm.console().wait_for("tick 2");
  REQUIRE(vm.machine().inject_nmi());
  vm.console().wait_for("EXCEPTION 2 ");
}

TEST_CASE("an NMI reaches every vCPU that the guest has started") {
  TestVm vm({"smp", "cpus=4", 4});
  vm.boot();
  vm.console().wait_for("cpus 4\n");
  for (std::uint64_t n = 1; n <= 3; ++n) {
    REQUIRE(vm.machine().inject_nmi());
    wait_for_nmis(vm, {n, n, n, n});
  }
}

TEST_CASE("vCPUs that wait to be started neither take an NMI nor run because of it") {
  TestVm vm({"smp", "", 4});
  vm.boot();
  vm.console().wait_for("cpus 1\n");
  SUBCASE("from the host") {
    REQUIRE(vm.machine().inject_nmi());
    wait_for_nmis(vm, {1});
  }
  SUBCASE("from another vCPU") {
    vm.console().send("k\n");
    vm.console().wait_for("sent");
    REQUIRE(nmis(vm) == std::vector<std::uint64_t>{0});
  }
  const std::uint64_t before = nmis(vm).front();
  check_others_idle(vm);
  vm.pause();
  vm.resume();
  check_others_idle(vm);
  vm.console().send("s 4\n");
  vm.console().wait_for("cpus 4\n");
  CHECK(nmis(vm) == std::vector<std::uint64_t>{before, 0, 0, 0});
  REQUIRE(vm.machine().inject_nmi());
  wait_for_nmis(vm, {before + 1, 1, 1, 1});
}

TEST_CASE("a restored vCPU that waits to be started forgets the NMI that was saved with it") {
  TestVm source({"smp", "", 3});
  source.boot();
  source.console().wait_for("cpus 1\n");
  source.pause();
  for (unsigned i = 1; i < 3; ++i) {
    REQUIRE(source.machine().vcpus()[i]->fd().call(KVM_NMI, nullptr, "KVM_NMI"));
  }
  const Saved saved = source.save();
  REQUIRE(vcpu_of(saved.units, 2).events().nmi_pending());
  TestVm clone({"smp", "", 3});
  clone.restore(saved);
  clone.resume();
  check_others_idle(clone);
  clone.console().send("s 3\n");
  clone.console().wait_for("cpus 3\n");
  CHECK(nmis(clone) == std::vector<std::uint64_t>{0, 0, 0});
}

TEST_CASE(
    "a saved vCPU that something wakes again and again before it is started is told, and does not spin") {
  TestVm source({"smp", "", 2});
  source.boot();
  source.console().wait_for("cpus 1\n");
  source.pause();
  Saved saved = source.save();
  for (auto& unit : *saved.units.mutable_units()) {
    if (unit.name() != "vcpu1") continue;
    // Its LAPIC timer ticks, as no guest can have made it.
    state::Vcpu vcpu = vcpu_of(saved.units, 1);
    const auto put = [&](std::size_t reg, std::uint32_t value) {
      std::memcpy(vcpu.mutable_lapic()->data() + reg, &value, sizeof value);
    };
    put(0xF0, 0x1FF);       // spurious vector: LAPIC enabled
    put(0x320, 0x2'0051);   // timer: periodic, vector 0x51
    put(0x3E0, 0xB);        // not divided
    put(0x380, 1'000'000);  // every millisecond
    unit.mutable_state()->set_value(vcpu.SerializeAsString());
  }
  TestVm clone({"smp", "", 2});
  clone.restore(saved);
  clone.resume();
  clone.recorder().wait();
  REQUIRE(clone.recorder().stops().size() == 1);
  const VcpuStop stop = clone.recorder().stops().front();
  CHECK(stop.vcpu == 1);
  CHECK(stop.reason == VcpuStop::Reason::RunFailed);
  CAPTURE(stop.message);
  CHECK(stop.message.find("before the guest has started it") != std::string::npos);
  check_others_idle(clone);
}

TEST_CASE("255 vCPUs that an NMI came to end at once") {
  TestVm vm({"smp", "", 255});
  vm.boot();
  vm.console().wait_for("cpus 1\n");
  vm.console().send("k\n");
  vm.console().wait_for("sent");
  REQUIRE(vm.machine().inject_nmi());
  wait_for_nmis(vm, {1});
  check_others_idle(vm);
  vm.pause();
  vm.resume();
  REQUIRE(vm.machine().stop());
}
