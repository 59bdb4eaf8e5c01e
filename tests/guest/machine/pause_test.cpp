// Pause and resume: nothing is lost, nothing happens twice.
#include <doctest/doctest.h>

#include "tests/guest/machine/fixture.h"

using namespace vmmd;
using namespace vmmd::vm::test;

namespace {

// "WORD 0", "WORD 1", … without a gap; returns how many.
std::uint64_t check_consecutive(const Console& console, std::string_view word, std::uint64_t first = 0) {
  std::uint64_t next = first;
  for (const std::string& line : console.lines()) {
    if (line.rfind(word, 0) != 0) continue;
    if (line != std::string(word) + " " + std::to_string(next)) {
      FAIL("\"", line, "\" came where ", next, " was due");
    }
    ++next;
  }
  return next;
}

}  // namespace

TEST_CASE("a guest boots, says what it has to and answers") {
  TestVm vm({"tick"});
  vm.boot();
  vm.console().wait_for("tick 3");
  vm.console().send("hello\n");
  vm.console().wait_for("echo hello");
  CHECK(vm.recorder().events() == 0);
}

TEST_CASE("200 pauses lose no tick and double none") {
  TestVm vm({"tick", "period_ms=1"});
  vm.boot();
  vm.console().wait_for("tick 0");
  for (int i = 0; i < 200; ++i) {
    vm.pause();
    vm.resume();
    if (i % 20 == 0) vm.console().wait_for("tick ");
  }
  vm.console().wait_for("tick ");
  vm.pause();
  CHECK(check_consecutive(vm.console(), "tick") > 10);
  CHECK(vm.recorder().events() == 0);
}

TEST_CASE("pauses in the midst of port and MMIO accesses complete each of them once") {
  TestVm vm({"storm"});
  vm.boot();
  vm.console().wait_for("storm 0");
  for (int i = 0; i < 200; ++i) {
    vm.pause();
    vm.resume();
    if (i % 20 == 0) vm.console().wait_for("storm ");
  }
  vm.console().wait_for("storm ");
  vm.pause();
  CHECK(check_consecutive(vm.console(), "storm") > 10);
  for (const std::string& line : vm.console().lines()) {
    if (line.rfind("storm", 0) != 0) CHECK(line == "abcdefghijklmno");
  }
}

TEST_CASE("a paused guest says nothing more") {
  TestVm vm({"tick", "period_ms=1"});
  vm.boot();
  vm.console().wait_for("tick 5");
  vm.pause();
  const auto exits = vm.machine().counters().at("vcpu0").at("exits");
  const auto before = vm.save_units();
  const auto after = vm.save_units();
  CHECK(vm.machine().counters().at("vcpu0").at("exits") == exits);
  CHECK(vcpu_of(before, 0).regs().SerializeAsString() == vcpu_of(after, 0).regs().SerializeAsString());
}

TEST_CASE("a machine whose other vCPUs were never started pauses and resumes") {
  TestVm vm({"tick", "", 4});
  vm.boot();
  for (int i = 0; i < 20; ++i) {
    vm.pause();
    vm.resume();
  }
  vm.console().wait_for("tick 2");
  vm.pause();
  const auto saved = vm.save_units();
  for (unsigned i = 1; i < 4; ++i) CHECK(vcpu_of(saved, i).mp_state() == KVM_MP_STATE_UNINITIALIZED);
}

TEST_CASE("all vCPUs of an SMP guest start and pause together") {
  unsigned cpus = 4;
  SUBCASE("4 vCPUs") {}
  SUBCASE("16 vCPUs") {
    cpus = 16;
  }
  TestVm vm({"smp", "cpus=" + std::to_string(cpus), cpus});
  vm.boot();
  vm.console().wait_for("cpus " + std::to_string(cpus) + "\n");
  for (int i = 0; i < 20; ++i) {
    vm.pause();
    vm.resume();
  }
  vm.console().send("c\n");
  const auto first = numbers(vm.console().next_line("counters"));
  vm.console().send("c\n");
  const auto second = numbers(vm.console().next_line("counters"));
  REQUIRE(first.size() == cpus);
  REQUIRE(second.size() == cpus);
  for (unsigned i = 0; i < cpus; ++i) CHECK(second[i] >= first[i]);
  CHECK(second != first);
}
