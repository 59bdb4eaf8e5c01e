// A machine's state into another machine: equal there, and going on.
#include <algorithm>
#include <chrono>
#include <cstring>

#include <doctest/doctest.h>

#include "tests/guest/machine/fixture.h"

using namespace vmmd;
using namespace vmmd::vm::test;

namespace {

// Unit by unit as text of bytes, without what runs on by itself while a machine is paused.
std::vector<std::pair<std::string, std::string>> comparable(const state::SavedState& saved) {
  constexpr std::size_t kTimerCount = 0x390;  // LAPIC current count register
  constexpr std::uint32_t kTsc = 0x10;
  std::vector<std::pair<std::string, std::string>> units;
  for (const state::SavedUnit& unit : saved.units()) {
    std::string value = unit.state().value();
    if (unit.name().rfind("vcpu", 0) == 0) {
      state::Vcpu vcpu;
      REQUIRE(vcpu.ParseFromString(value));
      REQUIRE(vcpu.lapic().size() > kTimerCount + 4);
      std::memset(vcpu.mutable_lapic()->data() + kTimerCount, 0, 4);
      for (state::Msr& msr : *vcpu.mutable_msrs()) {
        if (msr.index() == kTsc) msr.set_value(0);
      }
      value = vcpu.SerializeAsString();
    } else if (unit.name() == "rtc") {
      // Follows the host's wall clock: catching up notes when, and sets flags in register C.
      state::CmosRtc rtc;
      REQUIRE(rtc.ParseFromString(value));
      rtc.clear_seen_second();
      rtc.clear_seen_ns();
      REQUIRE(rtc.ram().size() == 128);
      rtc.mutable_ram()->at(0x0C) = 0;
      value = rtc.SerializeAsString();
    }
    units.emplace_back(unit.name(), std::move(value));
  }
  return units;
}

void check_equal(const state::SavedState& a, const state::SavedState& b) {
  const auto left = comparable(a);
  const auto right = comparable(b);
  REQUIRE(left.size() == right.size());
  for (std::size_t i = 0; i < left.size(); ++i) {
    CAPTURE(left[i].first);
    CHECK(left[i].first == right[i].first);
    const bool same = left[i].second == right[i].second;
    CHECK(same);
  }
}

// Saved from one running machine, which is gone then.
Saved saved_from(const Setup& setup, std::string_view after) {
  TestVm source(setup);
  source.boot();
  source.console().wait_for(after);
  source.pause();
  return source.save();
}

}  // namespace

TEST_CASE("saving twice gives the same") {
  TestVm vm({"storm"});
  vm.boot();
  vm.console().wait_for("storm 1");
  vm.pause();
  const auto first = vm.save_units();
  const auto second = vm.save_units();
  check_equal(first, second);
}

TEST_CASE("a restored machine saves what it was restored from") {
  Setup setup{"storm"};
  std::string after = "storm 1";
  SUBCASE("in the midst of exits") {}
  SUBCASE("halted, with a periodic timer") {
    setup = {"tick"};
    after = "tick 2";
  }
  SUBCASE("with a TSC deadline pending") {
    setup = {"timers"};
    after = "tsc ";
  }
  SUBCASE("with vCPUs that were never started") {
    setup = {"tick", "", 3};
    after = "tick 2";
  }
  SUBCASE("with 4 vCPUs running") {
    setup = {"smp", "cpus=4", 4};
    after = "cpus 4";
  }
  const Saved saved = saved_from(setup, after);
  TestVm restored(setup);
  restored.restore(saved);
  check_equal(saved.units, restored.save_units());
}

// Cloud Hypervisor leaves them out.
TEST_CASE("a debugger's breakpoints are a restored guest's too") {
  const Setup setup{"storm"};
  Saved saved = saved_from(setup, "storm 1");
  auto& units = *saved.units.mutable_units();
  const auto unit =
      std::find_if(units.begin(), units.end(), [](const auto& each) { return each.name() == "vcpu0"; });
  REQUIRE(unit != units.end());
  state::Vcpu vcpu;
  REQUIRE(vcpu.ParseFromString(unit->state().value()));
  REQUIRE(vcpu.debug().db_size() == 4);
  for (int i = 0; i < 4; ++i)
    vcpu.mutable_debug()->set_db(i, 0x0000'7123'4567'8000U + 0x10U * std::uint64_t(i));
  vcpu.mutable_debug()->set_dr6(0xffff'0ff2);
  vcpu.mutable_debug()->set_dr7(0x0333'0455);  // on reads and writes at linear addresses that it never uses
  unit->mutable_state()->set_value(vcpu.SerializeAsString());
  TestVm restored(setup);
  restored.restore(saved);
  check_equal(saved.units, restored.save_units());
  restored.resume();
  restored.console().wait_for("storm ");
}

TEST_CASE("a restored guest goes on at the next instruction") {
  TestVm source({"storm"});
  source.boot();
  source.console().wait_for("storm 3");
  source.pause();
  const Saved saved = source.save();
  TestVm restored({"storm"});
  restored.restore(saved);
  source.destroy();  // what it said last is in its console
  restored.resume();
  for (int i = 0; i < 5; ++i) restored.console().wait_for("storm ");
  restored.console().wait_for("\n");
  CHECK(restored.console().text().find("bad") == std::string::npos);
  CHECK(restored.recorder().events() == 0);
}

TEST_CASE("a machine may be restored, saved and restored again, many times") {
  Saved saved = saved_from({"tick", "period_ms=1"}, "tick 2");
  for (int i = 0; i < 10; ++i) {
    TestVm vm({"tick", "period_ms=1"});
    vm.restore(saved);
    vm.resume();
    vm.console().wait_for("tick ");
    vm.console().wait_for("tick ");
    vm.pause();
    saved = vm.save();
    CHECK(vm.recorder().events() == 0);
  }
}

TEST_CASE("two machines of one snapshot run side by side and do not see each other") {
  const Saved saved = saved_from({"tick"}, "tick 2");
  TestVm one({"tick"});
  TestVm two({"tick"});
  one.restore(saved);
  two.restore(saved);
  one.resume();
  two.resume();
  one.console().send("first\n");
  two.console().send("second\n");
  one.console().wait_for("echo first\n");
  two.console().wait_for("echo second\n");
  CHECK(one.console().text().find("second") == std::string::npos);
  CHECK(two.console().text().find("first") == std::string::npos);
}

TEST_CASE("all vCPUs of a restored SMP guest run on") {
  unsigned cpus = 4;
  SUBCASE("4 vCPUs") {}
  SUBCASE("16 vCPUs") {
    cpus = 16;
  }
  const Setup setup{"smp", "cpus=" + std::to_string(cpus), cpus};
  TestVm source(setup);
  source.boot();
  source.console().wait_for("cpus " + std::to_string(cpus) + "\n");
  source.console().send("c\n");
  const auto before = numbers(source.console().next_line("counters"));
  source.pause();
  const Saved saved = source.save();
  source.destroy();
  TestVm restored(setup);
  restored.restore(saved);
  restored.resume();
  auto now = before;
  const auto behind = [&] {
    for (unsigned i = 0; i < cpus; ++i) {
      if (now[i] <= before[i]) return true;
    }
    return false;
  };
  const auto end = std::chrono::steady_clock::now() + kDeadline;
  while (behind() && std::chrono::steady_clock::now() < end) {
    restored.console().send("c\n");
    now = numbers(restored.console().next_line("counters"));
    REQUIRE(now.size() == cpus);
  }
  CHECK_FALSE(behind());
}

TEST_CASE("timers that were armed when the guest was saved go off in the restored one") {
  Setup setup{"timers"};
  std::size_t counter = 0;  // of "tsc N lapic N rtc N"
  SUBCASE("TSC deadline, and the RTC's periodic interrupt") {}
  SUBCASE("periodic LAPIC timer, and the RTC's") {
    setup.cmdline = "periodic";
    counter = 1;
  }
  TestVm source(setup);
  source.boot();
  const auto before = numbers(source.console().next_line("tsc "));
  source.pause();
  const Saved saved = source.save();
  source.destroy();
  TestVm restored(setup);
  restored.restore(saved);
  restored.resume();
  auto first = numbers(restored.console().next_line("tsc "));
  const auto second = numbers(restored.console().next_line("tsc "));
  REQUIRE(before.size() == 3);
  REQUIRE(second.size() == 3);
  CHECK(first[counter] >= before[counter]);
  CHECK(second[counter] > first[counter]);
  CHECK(second[2] > first[2]);
}

TEST_CASE("a serial interrupt that is pending when the guest is saved arrives in the restored one") {
  Setup setup{"irq"};
  SUBCASE("edge triggered") {}
  SUBCASE("level triggered") {
    setup.cmdline = "level";
  }
  TestVm source(setup);
  source.boot();
  source.console().wait_for("irq ready\n");
  source.console().send("warm\n");
  source.console().wait_for("echo warm\n");
  source.pause();
  source.console().send("late\n");
  // The device thread takes the line into the FIFO while the vCPU stands: that is when the interrupt pends.
  const auto received = [&] {
    source.host().loop().run_sync([] {});
    const state::SavedState saved = source.save_units();
    for (const state::SavedUnit& unit : saved.units()) {
      if (unit.name() != "serial0") continue;
      state::Serial serial;
      REQUIRE(serial.ParseFromString(unit.state().value()));
      return serial.receive_fifo() == "late\n";
    }
    return false;
  };
  const auto end = std::chrono::steady_clock::now() + kDeadline;
  while (!received()) REQUIRE(std::chrono::steady_clock::now() < end);
  const Saved saved = source.save();
  source.destroy();
  TestVm restored(setup);
  restored.restore(saved);
  restored.resume();
  restored.console().wait_for("echo late\n");
  restored.console().send("more\n");
  restored.console().wait_for("echo more\n");
}
