#include "daemon/kvm/vcpu_check.h"

#include <cstddef>
#include <functional>
#include <string>

#include <doctest/doctest.h>

#include "daemon/kvm/register_messages.h"

using namespace vmmd;

namespace {

constexpr std::size_t kXsaveSize = 4096 + 832;

/// A CPU in 64-bit mode.
state::Vcpu sound_vcpu() {
  state::Vcpu state;
  state.add_cpuid()->set_function(0x4000'0001);
  state.set_lapic(std::string(KVM_APIC_REG_SIZE, '\x11'));
  std::string xsave(kXsaveSize, '\0');
  xsave[512] = 7;      // x87, SSE, AVX in use
  xsave[24] = '\x80';  // MXCSR
  xsave[25] = '\x1F';
  state.set_xsave(xsave);
  kvm::to_message(kvm_regs{}, *state.mutable_regs());
  kvm_sregs sregs = {};
  sregs.cr0 = 0x8005'0033;
  sregs.cr4 = 0x20;
  sregs.efer = 0xD01;
  sregs.cs.l = 1;
  sregs.apic_base = 0xFEE0'0D00;
  kvm::to_message(sregs, *state.mutable_sregs());
  kvm::to_message(kvm_debugregs{}, *state.mutable_debug());
  kvm::to_message(kvm_vcpu_events{}, *state.mutable_events());
  return state;
}

/// The reason why a sound vCPU with this change is refused; "" if it is not.
std::string refused(const std::function<void(state::Vcpu&)>& change) {
  state::Vcpu state = sound_vcpu();
  change(state);
  const Status checked = kvm::check_vcpu(state, kXsaveSize);
  if (checked) return "";
  CHECK(checked.error().code == ErrorCode::BadRequest);
  return checked.error().to_string();
}

std::string with_sregs(const std::function<void(state::SpecialRegisters&)>& change) {
  return refused([&](state::Vcpu& state) { change(*state.mutable_sregs()); });
}

std::string with_events(const std::function<void(state::VcpuEvents&)>& change) {
  return refused([&](state::Vcpu& state) { change(*state.mutable_events()); });
}

bool says(const std::string& reason, const char* what) {
  CAPTURE(reason);
  return reason.find(what) != std::string::npos;
}

}  // namespace

TEST_CASE("a sound vCPU is taken") {
  CHECK(refused([](state::Vcpu&) {}) == "");
}

TEST_CASE("a CPU in real mode, with paging and long mode off, is taken") {
  CHECK(with_sregs([](auto& sregs) {
          sregs.set_cr0(0x6000'0010);
          sregs.set_cr4(0);
          sregs.set_efer(0);
          sregs.mutable_cs()->set_access_rights(0x9B);
        }) == "");
}

TEST_CASE("a vCPU of which a part is missing or of the wrong size is refused") {
  CHECK(says(refused([](auto& state) { state.clear_cpuid(); }), "0 CPUID leaves"));
  CHECK(says(refused([](auto& state) { state.mutable_lapic()->pop_back(); }), "LAPIC state has 1023 bytes"));
  CHECK(says(refused([](auto& state) { state.mutable_xsave()->resize(4095); }), "at least 4096"));
  CHECK(says(refused([](auto& state) { state.mutable_xsave()->push_back('\0'); }), "lacks a part"));
  CHECK(says(refused([](auto& state) { state.clear_regs(); }), "registers are missing"));
  CHECK(says(refused([](auto& state) { state.clear_events(); }), "registers are missing"));
}

TEST_CASE("an XSAVE area that XRSTOR would fault on is refused") {
  CHECK(says(refused([](auto& state) { state.mutable_xsave()->at(26) = 1; }), "MXCSR is 0x11f80"));
  CHECK(says(refused([](auto& state) { state.mutable_xsave()->at(527) = '\x80'; }), "compacted"));
  CHECK(says(refused([](auto& state) { state.mutable_xsave()->at(575) = 1; }), "reserved bytes"));
  CHECK(refused([](auto& state) { state.mutable_xsave()->at(576) = 1; }) == "");
}

TEST_CASE("a value that is larger than its register is refused, not cut") {
  CHECK(says(with_sregs([](auto& sregs) { sregs.mutable_tr()->set_selector(0x1'0008); }), "0x10008"));
  CHECK(says(with_sregs([](auto& sregs) { sregs.mutable_ldt()->set_access_rights(1U << 17); }), "0x20000"));
  CHECK(says(with_sregs([](auto& sregs) { sregs.mutable_idt()->set_limit(0x1'0000); }), "limit 0x10000"));
  CHECK(says(with_sregs([](auto& sregs) { sregs.set_pending_interrupt(257); }), "interrupt 256"));
  CHECK(says(with_sregs([](auto& sregs) { sregs.set_cr8(16); }), "CR8 cannot be 0x10"));
  CHECK(says(with_events([](auto& events) { events.set_interrupt_vector(256); }), "256 is no interrupt's"));
  CHECK(says(with_events([](auto& events) { events.set_interrupt_shadow(256); }), "0x100"));
  CHECK(says(refused([](auto& state) { state.mutable_debug()->set_dr7(1ULL << 32); }), "0x100000000"));
  CHECK(says(refused([](auto& state) { state.mutable_debug()->add_db(1); }), "5 addresses"));
}

TEST_CASE("a mode that no CPU has is refused") {
  CHECK(says(with_sregs([](auto& sregs) { sregs.set_cr0(0x8000'0000); }), "CR0 cannot be 0x80000000"));
  CHECK(says(with_sregs([](auto& sregs) { sregs.set_cr0(0xA005'0033); }), "CR0 cannot be 0xa0050033"));
  CHECK(says(with_sregs([](auto& sregs) { sregs.set_cr0(0x1'8005'0033); }), "CR0"));
  CHECK(says(with_sregs([](auto& sregs) { sregs.set_cr4(0); }), "CR4 0x0"));
  CHECK(says(with_sregs([](auto& sregs) { sregs.set_efer(0x901); }), "EFER 0x901"));
  CHECK(says(with_sregs([](auto& sregs) { sregs.set_cr0(0x33); }), "EFER 0xd01 with CR0 0x33"));
  CHECK(says(with_sregs([](auto& sregs) { sregs.set_apic_base(0xFEE0'0500); }), "0xfee00500"));
  CHECK(says(with_sregs([](auto& sregs) { sregs.set_apic_base(0xFEE0'0D01); }), "0xfee00d01"));
  CHECK(says(refused([](auto& state) { state.set_mp_state(5); }), "mp_state 5"));
}

TEST_CASE("an event that cannot be pending is refused") {
  const auto raise = [](unsigned vector) {
    return with_events([vector](auto& events) {
      events.set_exception_pending(true);
      events.set_exception_vector(vector);
    });
  };
  CHECK(raise(14) == "");
  CHECK(says(raise(2), "2 is no exception's"));
  CHECK(says(raise(32), "32 is no exception's"));
  CHECK(says(with_events([](auto& events) { events.set_exception_vector(0x10E); }), "270 is no exception's"));
  CHECK(with_events([](auto& events) { events.set_exception_vector(200); }) == "");  // left from long ago
  CHECK(says(with_events([](auto& events) { events.set_flags(0x41); }), "0x40"));
}
