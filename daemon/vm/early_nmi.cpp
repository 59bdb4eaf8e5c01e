#include "daemon/vm/early_nmi.h"

#include <pthread.h>
#include <signal.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

namespace vmmd::vm {

namespace {

constexpr std::uint32_t kKernelSignals = 64;

/// KVM_SET_SIGNAL_MASK: what is blocked during KVM_RUN.
struct SignalMask {
  std::uint32_t length = kKernelSignals / 8;
  std::array<std::uint8_t, kKernelSignals / 8> blocked{};
};

/// KVM_RUN with `signal` pending: KVM looks after its requests, sees the signal and comes back before it
/// enters the guest. immediate_exit comes back before the requests.
Status run_nothing(const kvm::VcpuFd& vcpu, int signal) {
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, signal);
  sigset_t before;
  pthread_sigmask(SIG_BLOCK, &only, &before);
  SignalMask during;
  Status status = vcpu.call(KVM_SET_SIGNAL_MASK, &during, "KVM_SET_SIGNAL_MASK");
  if (status) {
    pthread_kill(pthread_self(), signal);
    const int error = vcpu.run();
    if (error != EINTR) {
      status = fail(ErrorCode::Internal, "KVM_RUN with a signal pending: {}",
                    error == 0 ? "it ran" : std::strerror(error));
    }
    const Status undone = vcpu.call(KVM_SET_SIGNAL_MASK, nullptr, "KVM_SET_SIGNAL_MASK");
    if (status) status = undone;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);  // the signal comes now
  return status;
}

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
  const Status ran = run_nothing(vcpu, signal);
  // INIT and STARTUP have come if the state is another one, or the same with the new instruction pointer.
  VMMD_ASSIGN(const std::uint32_t state_now, vcpu.mp_state());
  VMMD_ASSIGN(const std::uint64_t rip_now, instruction_pointer(vcpu));
  if (state_now == KVM_MP_STATE_RUNNABLE && rip_now == rip) VMMD_TRY(set_mp_state(vcpu, state));
  VMMD_TRY(ran);
  return dropped;
}

}  // namespace vmmd::vm
