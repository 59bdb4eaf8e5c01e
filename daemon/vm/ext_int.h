#pragma once

#include <atomic>
#include <mutex>

#include "base/result.h"
#include "daemon/kvm/vcpu_fd.h"
#include "devices/chipset/pic.h"
#include "devices/interrupt.h"

namespace vmmd::vm {

class Vcpu;

/// The INTR pin between the PICs, which are in user space, and the boot processor, whose LAPIC is in KVM and
/// takes "ExtINT" by LINT0.
///
/// An interrupt is acknowledged only when the guest can take it at once, and is then given to KVM as one that
/// is being injected (KVM_SET_VCPU_EVENTS), not by KVM_INTERRUPT: what that has queued can be neither seen
/// nor taken back, and a vCPU that parks right behind it would lose it in a snapshot. So an interrupt is at
/// any moment in the PIC's unit or in the vCPU's. Price: a hypervisor in the guest sees such an interrupt
/// arrive in its own guest.
///
/// Locks: the PIC's, then its own, then the vCPU's. set_level() may be called on any thread.
class ExtInt final : public devices::InterruptLine {
 public:
  void set_level(bool high) override;

  /// Who is interrupted; nullptr while there is nobody.
  void connect(Vcpu* vcpu);
  void set_pic(devices::Pic& pic) { pic_ = &pic; }

  /// On the vCPU's thread, before each KVM_RUN: injects what waits, or asks KVM to return when the guest can
  /// take it.
  Status deliver(const kvm::VcpuFd& vcpu);

 private:
  std::atomic<bool> high_ = false;
  devices::Pic* pic_ = nullptr;
  std::mutex mutex_;
  Vcpu* vcpu_ = nullptr;
};

}  // namespace vmmd::vm
