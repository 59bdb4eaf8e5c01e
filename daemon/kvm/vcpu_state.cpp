#include "daemon/kvm/vcpu_state.h"

#include <cerrno>
#include <cstring>
#include <string>

#include "daemon/kvm/register_messages.h"
#include "daemon/snapshot/cpu/cpuid_messages.h"
#include "daemon/x86/msr.h"

namespace vmmd::kvm {

namespace {

constexpr std::size_t kLapicSize = KVM_APIC_REG_SIZE;

kvm_msr_entry msr_entry(const state::Msr& msr) {
  return {msr.index(), 0, msr.value()};
}

Status save_xsave(const VcpuFd& vcpu, std::size_t size, state::Vcpu& state) {
  std::string area(size, '\0');
  // KVM_GET_XSAVE2 fills as much as KVM_CAP_XSAVE2 said; where that is the old size, both calls are the same.
  const unsigned long request = size > sizeof(kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;
  VMMD_TRY(vcpu.call(request, area.data(), "reading the XSAVE area"));
  state.set_xsave(std::move(area));
  return {};
}

// What KVM takes for impossible is the snapshot's fault, or does not fit this host's CPU: not ours.
Status put(const VcpuFd& vcpu, unsigned long request, void* argument, const char* what) {
  if (retrying_ioctl(vcpu.fd(), request, argument) >= 0) return {};
  const int error = errno;
  const bool impossible = error == EINVAL || error == EPERM;
  return fail_errno(impossible ? ErrorCode::BadRequest : ErrorCode::Internal, error,
                    "this host's KVM refuses the saved {}", what);
}

template <class T>
Status put(const VcpuFd& vcpu, unsigned long request, const T& value, const char* what) {
  T copy = value;
  return put(vcpu, request, static_cast<void*>(&copy), what);
}

}  // namespace

Result<state::Vcpu> save_vcpu(const VcpuFd& vcpu, std::span<const kvm_cpuid_entry2> cpuid,
                              std::span<const std::uint32_t> msr_indices, std::optional<std::uint64_t> tsc) {
  state::Vcpu state;
  for (const kvm_cpuid_entry2& entry : cpuid) snapshot::to_message(entry, *state.add_cpuid());
  // First: reading mp_state makes KVM take pending INIT and SIPI, which changes everything below.
  VMMD_ASSIGN(const auto mp, (vcpu.get<KVM_GET_MP_STATE, kvm_mp_state>("KVM_GET_MP_STATE")));
  state.set_mp_state(mp.mp_state);
  VMMD_ASSIGN(const auto regs, (vcpu.get<KVM_GET_REGS, kvm_regs>("KVM_GET_REGS")));
  to_message(regs, *state.mutable_regs());
  VMMD_ASSIGN(const auto sregs, (vcpu.get<KVM_GET_SREGS, kvm_sregs>("KVM_GET_SREGS")));
  to_message(sregs, *state.mutable_sregs());
  VMMD_TRY(save_xsave(vcpu, vcpu.xsave_size(), state));
  VMMD_ASSIGN(const auto xcrs, (vcpu.get<KVM_GET_XCRS, kvm_xcrs>("KVM_GET_XCRS")));
  for (unsigned i = 0; i < xcrs.nr_xcrs && i < KVM_MAX_XCRS; ++i) {
    if (xcrs.xcrs[i].xcr == 0) state.set_xcr0(xcrs.xcrs[i].value);
  }
  VMMD_ASSIGN(const auto debug, (vcpu.get<KVM_GET_DEBUGREGS, kvm_debugregs>("KVM_GET_DEBUGREGS")));
  to_message(debug, *state.mutable_debug());
  VMMD_ASSIGN(const auto lapic, (vcpu.get<KVM_GET_LAPIC, kvm_lapic_state>("KVM_GET_LAPIC")));
  state.set_lapic(lapic.regs, kLapicSize);
  VMMD_ASSIGN(auto msrs, vcpu.get_msrs(msr_indices));
  for (kvm_msr_entry& entry : msrs) {
    if (entry.index == x86::kMsrTsc && tsc) entry.data = *tsc;
  }
  x86::fix_saved_msrs(msrs);
  for (const kvm_msr_entry& entry : msrs) {
    state::Msr& msr = *state.add_msrs();
    msr.set_index(entry.index);
    msr.set_value(entry.data);
  }
  // Last: the calls above may move what is pending between KVM's own places.
  VMMD_ASSIGN(const auto events, (vcpu.get<KVM_GET_VCPU_EVENTS, kvm_vcpu_events>("KVM_GET_VCPU_EVENTS")));
  to_message(events, *state.mutable_events());
  state.set_tsc_khz(vcpu.tsc_khz());
  return state;
}

Status restore_vcpu(const VcpuFd& vcpu, const state::Vcpu& state, std::vector<std::uint32_t>& refused_msrs) {
  VMMD_TRY(put(vcpu, KVM_SET_MP_STATE, kvm_mp_state{state.mp_state()}, "mp_state"));
  VMMD_TRY(put(vcpu, KVM_SET_REGS, from_message(state.regs()), "general registers"));
  // SREGS carries the APIC base: the LAPIC's mode, before its registers.
  VMMD_TRY(put(vcpu, KVM_SET_SREGS, from_message(state.sregs()), "special registers"));
  kvm_xcrs xcrs = {};
  xcrs.nr_xcrs = 1;
  xcrs.xcrs[0].value = state.xcr0();
  VMMD_TRY(put(vcpu, KVM_SET_XCRS, xcrs, "XCR0"));
  std::string xsave = state.xsave();
  xsave.resize(vcpu.xsave_size(), '\0');  // KVM reads as many bytes as its own area has
  VMMD_TRY(put(vcpu, KVM_SET_XSAVE, static_cast<void*>(xsave.data()), "XSAVE area"));
  VMMD_TRY(put(vcpu, KVM_SET_DEBUGREGS, from_message(state.debug()), "debug registers"));
  // The LAPIC before the MSRs: TSC_DEADLINE is ignored unless the LVT timer is in deadline mode.
  kvm_lapic_state lapic = {};
  std::memcpy(lapic.regs, state.lapic().data(), kLapicSize);
  VMMD_TRY(put(vcpu, KVM_SET_LAPIC, lapic, "LAPIC"));
  std::vector<kvm_msr_entry> msrs;
  msrs.reserve(static_cast<std::size_t>(state.msrs_size()));
  for (const state::Msr& msr : state.msrs()) msrs.push_back(msr_entry(msr));
  VMMD_TRY(vcpu.set_msrs(msrs, refused_msrs));
  kvm_vcpu_events events = from_message(state.events());
  // Hardware blocks it; KVM would neither deliver it nor let the vCPU wait.
  if (waits_for_start(state.mp_state())) events.nmi.pending = 0;
  return put(vcpu, KVM_SET_VCPU_EVENTS, events, "events");
}

}  // namespace vmmd::kvm
