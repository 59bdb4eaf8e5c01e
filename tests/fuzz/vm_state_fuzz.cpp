// The units that go into KVM: a vCPU and the guest's time, as a hostile snapshot has them. KVM is not asked:
// what is checked before it must hold whatever the bytes.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "daemon/kvm/register_messages.h"
#include "daemon/kvm/vcpu_check.h"
#include "daemon/loop/vm_clock.h"
#include "daemon/snapshot/cpu/cpuid_messages.h"
#include "daemon/vm/time_unit.h"
#include "devices/state_unit.h"

using namespace vmmd;

namespace {

constexpr std::size_t kXsaveSaved = 4096;

void require(bool holds) {
  if (!holds) std::abort();
}

/// A vCPU that would be taken, but for the parts that `without` names: chance does not find 1024 bytes of
/// LAPIC.
std::string sound_vcpu(unsigned without) {
  state::Vcpu state;
  if ((without & 1) == 0) state.add_cpuid()->set_function(0);
  if ((without & 2) == 0) state.set_lapic(std::string(KVM_APIC_REG_SIZE, '\0'));
  if ((without & 4) == 0) state.set_xsave(std::string(kXsaveSaved, '\0'));
  if ((without & 8) == 0) {
    kvm::to_message(kvm_regs{}, *state.mutable_regs());
    kvm::to_message(kvm_sregs{}, *state.mutable_sregs());
    kvm::to_message(kvm_vcpu_events{}, *state.mutable_events());
  }
  if ((without & 16) == 0) kvm::to_message(kvm_debugregs{}, *state.mutable_debug());
  return state.SerializeAsString();
}

/// The fields that are narrower in KVM's structures lose nothing on their way there.
void keeps(const state::SpecialRegisters& sregs) {
  state::SpecialRegisters kvms;
  kvm::to_message(kvm::from_message(sregs), kvms);
  using Segments = std::array<const state::Segment*, 8>;
  const auto segments = [](const state::SpecialRegisters& of) {
    return Segments{&of.cs(), &of.ds(), &of.es(), &of.fs(), &of.gs(), &of.ss(), &of.tr(), &of.ldt()};
  };
  const Segments saved = segments(sregs);
  const Segments set = segments(kvms);
  for (std::size_t i = 0; i < saved.size(); ++i) {
    require(saved.at(i)->selector() == set.at(i)->selector());
    require(saved.at(i)->access_rights() == set.at(i)->access_rights());
  }
  require(sregs.gdt().limit() == kvms.gdt().limit() && sregs.idt().limit() == kvms.idt().limit());
  require(sregs.pending_interrupt() == kvms.pending_interrupt());
}

void keeps(const state::VcpuEvents& events) {
  state::VcpuEvents kvms;
  kvm::to_message(kvm::from_message(events), kvms);
  require(events.exception_vector() == kvms.exception_vector());
  require(events.interrupt_vector() == kvms.interrupt_vector());
  require(events.interrupt_shadow() == kvms.interrupt_shadow());
}

void play_vcpu(std::string bytes) {
  state::Vcpu state;
  if (!devices::unpack_state({"type.googleapis.com/vmmd.state.Vcpu", std::move(bytes), 1}, "vcpu0", 1, state))
    return;
  if (const Status checked = kvm::check_vcpu(state, kXsaveSaved); !checked) {
    require(checked.error().code == ErrorCode::BadRequest);
    return;
  }
  require(!kvm::check_vcpu(state, state.xsave().size() - 1));  // for a smaller CPU it is too large
  require(state.lapic().size() == sizeof(kvm_lapic_state) && state.xsave().size() >= sizeof(kvm_xsave));
  require(snapshot::from_messages(state.cpuid()).size() <= 256);
  require(state.debug().db_size() == 4);
  keeps(state.sregs());
  keeps(state.events());
}

/// Timers that fire, are far away, and wrap, on a clock that stands where the snapshot says.
void play_time(std::string bytes, std::uint64_t deadline) {
  const auto time =
      vm::unpack_guest_time({"type.googleapis.com/vmmd.state.VirtualMachine", std::move(bytes), 1});
  if (!time) {
    require(time.error().code == ErrorCode::BadRequest);
    return;
  }
  require(time->kvmclock_ns + time->realtime_ns >= time->kvmclock_ns);
  loop::DeviceLoop loop;  // without its thread: armed is what the timer shall be, not fired
  loop::VmClock clock(loop);
  clock.set_monotonic_ns(time->guest_monotonic_ns);
  const auto timer = clock.make_timer([] {});
  timer->arm(deadline);
  clock.thaw();
  require(clock.monotonic_ns() >= time->guest_monotonic_ns);
  clock.freeze();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data + 1), size - 1);
  if (data[0] % 8 == 7) {
    play_time(std::string(input), size > 8 ? std::uint64_t{data[1]} << (data[2] % 64) : 0);
  } else {
    play_vcpu(sound_vcpu(data[0] / 8) + std::string(input));  // one message behind another is one of both
  }
  return 0;
}
