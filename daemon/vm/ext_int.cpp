#include "daemon/vm/ext_int.h"

#include "daemon/vm/vcpu.h"

namespace vmmd::vm {

void ExtInt::set_level(bool high) {
  high_ = high;
  if (!high) return;
  const std::lock_guard lock(mutex_);
  if (vcpu_ != nullptr) vcpu_->interrupt();
}

void ExtInt::connect(Vcpu* vcpu) {
  const std::lock_guard lock(mutex_);
  vcpu_ = vcpu;
}

Status ExtInt::deliver(const kvm::VcpuFd& vcpu) {
  kvm_run& run = vcpu.run_page();
  const bool waiting = high_;
  run.request_interrupt_window = waiting ? 1 : 0;
  // KVM's answer of the last return: interrupts are enabled and LINT0 takes them.
  if (!waiting || run.ready_for_interrupt_injection == 0) return {};
  VMMD_ASSIGN(auto events, (vcpu.get<KVM_GET_VCPU_EVENTS, kvm_vcpu_events>("KVM_GET_VCPU_EVENTS")));
  if (events.exception.injected != 0 || events.exception.pending != 0 || events.interrupt.injected != 0 ||
      events.nmi.injected != 0) {
    return {};
  }
  events.interrupt = {};
  events.interrupt.injected = 1;
  events.interrupt.nr = pic_->acknowledge();
  events.flags = 0;  // what another thread may queue meanwhile, as an NMI, stays
  VMMD_TRY(vcpu.set<KVM_SET_VCPU_EVENTS>(events, "KVM_SET_VCPU_EVENTS"));
  // KVM wakes a halted vCPU for what its LAPIC has, not for what is being injected.
  VMMD_ASSIGN(const auto mp, (vcpu.get<KVM_GET_MP_STATE, kvm_mp_state>("KVM_GET_MP_STATE")));
  if (mp.mp_state == KVM_MP_STATE_HALTED) {
    VMMD_TRY(vcpu.set<KVM_SET_MP_STATE>(kvm_mp_state{KVM_MP_STATE_RUNNABLE}, "KVM_SET_MP_STATE"));
  }
  run.request_interrupt_window = high_ ? 1 : 0;
  return {};
}

}  // namespace vmmd::vm
