// A guest whose only clock and interrupt controller are the PIT and the PICs.
#include <chrono>

#include <doctest/doctest.h>

#include "tests/guest/machine/fixture.h"

using namespace vmmd;
using namespace vmmd::vm::test;

namespace {

constexpr double kPmHz = 3'579'545;
constexpr std::uint64_t kHz = 50;

struct PcVm : TestVm {
  PcVm() : TestVm({"pit"}) { config().platform.pc = true; }
};

struct Reading {
  std::uint64_t ticks = 0;
  std::uint32_t pm = 0;
};

Reading read(PcVm& vm) {
  const auto values = numbers(vm.console().next_line("pit "));
  REQUIRE(values.size() == 2);
  return {values[0], static_cast<std::uint32_t>(values[1])};
}

// Never more ticks than time passed by the ACPI timer. A host that is busy delivers fewer, and says nothing
// of us.
void check_time(Reading before, Reading after) {
  const double seconds = static_cast<double>(after.pm - before.pm) / kPmHz;
  const double ticked = static_cast<double>(after.ticks - before.ticks) / kHz;
  CAPTURE(seconds);
  CAPTURE(ticked);
  CHECK(ticked > 0);
  CHECK(ticked < seconds + 2.0 / kHz);
}

std::string unit(const state::SavedState& saved, std::string_view name) {
  for (const state::SavedUnit& u : saved.units()) {
    if (u.name() == name) return u.state().value();
  }
  FAIL("no unit ", std::string(name));
  return {};
}

}  // namespace

TEST_CASE("a guest with PIC and PIT alone keeps time over pauses and takes input") {
  PcVm vm;
  vm.boot();
  const Reading first = read(vm);
  for (int i = 0; i < 3; ++i) {
    vm.pause();
    vm.resume();
    read(vm);
  }
  vm.console().send("hello\n");
  vm.console().wait_for("echo hello");
  check_time(first, read(vm));
}

TEST_CASE("a guest with PIC and PIT alone goes on in another machine, generation after generation") {
  auto vm = std::make_unique<PcVm>();
  vm->boot();
  Reading before = read(*vm);
  for (int generation = 0; generation < 5; ++generation) {
    vm->pause();
    const Saved saved = vm->save();
    vm = std::make_unique<PcVm>();
    vm->restore(saved);
    const state::SavedState again = vm->save_units();
    for (const std::string_view name : {"pit", "pic", "speaker", "dma-page", "acpi-pm1", "i8042", "ioapic"}) {
      CAPTURE(name);
      CHECK(unit(again, name) == unit(saved.units, name));
    }
    vm->resume();
    const Reading after = read(*vm);
    check_time(before, after);
    before = after;
  }
  CHECK(vm->console().text().find("spurious") == std::string::npos);
}

// Pauses at many instants: in the handler, in HLT, between INTR and delivery. A tick that is lost half-way
// would leave its bit in service or its edge behind, and the PIT's next one is masked for ever.
TEST_CASE("no interrupt of the PIC is lost half-way by a snapshot") {
  auto vm = std::make_unique<PcVm>();
  vm->config().payload.cmdline = "hz=1000";
  vm->boot();
  read(*vm);
  for (int i = 0; i < 30; ++i) {
    vm->pause();
    const Saved saved = vm->save();
    vm = std::make_unique<PcVm>();
    vm->restore(saved);
    vm->resume();
    CAPTURE(i);
    read(*vm);
  }
}

TEST_CASE("an interrupt that was raised and not yet taken wakes a guest that was saved halted") {
  constexpr std::uint32_t kHalted = 3;  // KVM_MP_STATE_HALTED
  PcVm source;
  source.boot();
  Saved saved;
  do {  // at 50 ticks a second it is halted most of the time
    read(source);
    source.pause();
    saved = source.save();
    source.resume();
  } while (vcpu_of(saved.units, 0).mp_state() != kHalted);
  source.destroy();
  for (state::SavedUnit& saved_unit : *saved.units.mutable_units()) {
    if (saved_unit.name() != "pic") continue;
    state::Pic pic;
    REQUIRE(pic.ParseFromString(saved_unit.state().value()));
    REQUIRE(pic.chips(0).in_service() == 0);
    pic.mutable_chips(0)->set_requests(1);
    saved_unit.mutable_state()->set_value(pic.SerializeAsString());
  }
  PcVm restored;
  restored.restore(saved);
  restored.resume();
  read(restored);
}

TEST_CASE("a guest that uses LAPIC and IOAPIC runs beside the PC's devices as without them") {
  TestVm vm({"timers"});
  vm.config().platform.pc = true;
  vm.boot();
  vm.console().wait_for("rtc 32");
}
