#include "daemon/kvm/vcpu_state.h"

#include <cstring>
#include <string>

#include "daemon/kvm/register_messages.h"
#include "daemon/snapshot/format/cpuid_messages.h"
#include "daemon/x86/msr.h"

namespace vmmd::kvm {

namespace {

constexpr int kMaxCpuidLeaves = 256;  // KVM_MAX_CPUID_ENTRIES
constexpr int kMaxMsrs = 4096;
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

Status check_vcpu(const Kvm& kvm, const state::Vcpu& state) {
  if (state.cpuid_size() == 0 || state.cpuid_size() > kMaxCpuidLeaves) {
    return fail(ErrorCode::BadRequest, "{} CPUID leaves; 1 to {} are possible", state.cpuid_size(),
                kMaxCpuidLeaves);
  }
  if (state.msrs_size() > kMaxMsrs) {
    return fail(ErrorCode::BadRequest, "{} MSRs; at most {} are possible", state.msrs_size(), kMaxMsrs);
  }
  if (state.lapic().size() != kLapicSize) {
    return fail(ErrorCode::BadRequest, "LAPIC state has {} bytes instead of {}", state.lapic().size(),
                kLapicSize);
  }
  if (state.xsave().size() < sizeof(kvm_xsave)) {
    return fail(ErrorCode::BadRequest, "the XSAVE area has {} bytes; at least {} are needed",
                state.xsave().size(), sizeof(kvm_xsave));
  }
  if (state.xsave().size() > kvm.xsave_size()) {
    return fail(ErrorCode::BadRequest,
                "the XSAVE area has {} bytes, this host's CPU has {}: its extended state lacks a part",
                state.xsave().size(), kvm.xsave_size());
  }
  if (!state.has_regs() || !state.has_sregs() || !state.has_debug() || !state.has_events()) {
    return fail(ErrorCode::BadRequest, "registers are missing");
  }
  if (state.mp_state() > KVM_MP_STATE_AP_RESET_HOLD) {
    return fail(ErrorCode::BadRequest, "mp_state {} is unknown", state.mp_state());
  }
  return {};
}

Status restore_vcpu(const VcpuFd& vcpu, const state::Vcpu& state, std::vector<std::uint32_t>& refused_msrs) {
  VMMD_TRY(vcpu.set<KVM_SET_MP_STATE>(kvm_mp_state{state.mp_state()}, "KVM_SET_MP_STATE"));
  VMMD_TRY(vcpu.set<KVM_SET_REGS>(from_message(state.regs()), "KVM_SET_REGS"));
  // SREGS carries the APIC base: the LAPIC's mode, before its registers.
  VMMD_TRY(vcpu.set<KVM_SET_SREGS>(from_message(state.sregs()), "KVM_SET_SREGS"));
  kvm_xcrs xcrs = {};
  xcrs.nr_xcrs = 1;
  xcrs.xcrs[0].value = state.xcr0();
  VMMD_TRY(vcpu.set<KVM_SET_XCRS>(xcrs, "KVM_SET_XCRS"));
  std::string xsave = state.xsave();
  xsave.resize(vcpu.xsave_size(), '\0');  // KVM reads as many bytes as its own area has
  VMMD_TRY(vcpu.call(KVM_SET_XSAVE, xsave.data(), "writing the XSAVE area"));
  VMMD_TRY(vcpu.set<KVM_SET_DEBUGREGS>(from_message(state.debug()), "KVM_SET_DEBUGREGS"));
  // The LAPIC before the MSRs: TSC_DEADLINE is ignored unless the LVT timer is in deadline mode.
  kvm_lapic_state lapic = {};
  std::memcpy(lapic.regs, state.lapic().data(), kLapicSize);
  VMMD_TRY(vcpu.set<KVM_SET_LAPIC>(lapic, "KVM_SET_LAPIC"));
  std::vector<kvm_msr_entry> msrs;
  msrs.reserve(static_cast<std::size_t>(state.msrs_size()));
  for (const state::Msr& msr : state.msrs()) msrs.push_back(msr_entry(msr));
  VMMD_TRY(vcpu.set_msrs(msrs, refused_msrs));
  kvm_vcpu_events events = from_message(state.events());
  // Hardware blocks it; KVM would neither deliver it nor let the vCPU wait.
  if (waits_for_start(state.mp_state())) events.nmi.pending = 0;
  return vcpu.set<KVM_SET_VCPU_EVENTS>(events, "KVM_SET_VCPU_EVENTS");
}

}  // namespace vmmd::kvm
