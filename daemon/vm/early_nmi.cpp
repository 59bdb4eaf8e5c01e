#include "daemon/vm/early_nmi.h"

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "daemon/vm/run_nothing.h"

namespace vmmd::vm {

namespace {

Status set_mp_state(const kvm::VcpuFd& vcpu, std::uint32_t state) {
  return vcpu.set<KVM_SET_MP_STATE>(kvm_mp_state{state}, "KVM_SET_MP_STATE");
}

Result<std::uint64_t> instruction_pointer(const kvm::VcpuFd& vcpu) {
  VMMD_ASSIGN(const auto regs, (vcpu.get<KVM_GET_REGS, kvm_regs>("KVM_GET_REGS")));
  return regs.rip;
}

}  // namespace

Result<bool> forget_early_nmi(const kvm::VcpuFd& vcpu, int signal) {
  VMMD_ASSIGN(const std::uint32_t state, vcpu.mp_state());
  if (state != KVM_MP_STATE_UNINITIALIZED) return false;  // INIT has woken it
  VMMD_ASSIGN(const bool dropped, vcpu.drop_nmi());
  // KVM_REQ_NMI is still set. Only the way into the guest clears it, which a vCPU in this state is not let
  // on.
  VMMD_ASSIGN(const std::uint64_t rip, instruction_pointer(vcpu));
  VMMD_TRY(set_mp_state(vcpu, KVM_MP_STATE_RUNNABLE));
  const auto error = run_nothing(vcpu, signal);
  // INIT and STARTUP have come if the state is another one, or the same with the new instruction pointer.
  VMMD_ASSIGN(const std::uint32_t state_now, vcpu.mp_state());
  VMMD_ASSIGN(const std::uint64_t rip_now, instruction_pointer(vcpu));
  if (state_now == KVM_MP_STATE_RUNNABLE && rip_now == rip) VMMD_TRY(set_mp_state(vcpu, state));
  if (!error) return tl::make_unexpected(error.error());
  if (*error != EINTR) {
    return fail(ErrorCode::Internal, "KVM_RUN with a signal pending: {}",
                *error == 0 ? "it ran" : std::strerror(*error));
  }
  return dropped;
}

}  // namespace vmmd::vm
