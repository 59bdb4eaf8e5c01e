#pragma once

#include "base/result.h"
#include "daemon/kvm/vcpu_fd.h"

// NMIs to application processors that the guest has not started.
//
// Hardware blocks them until INIT and STARTUP have come. KVM keeps them, wakes the vCPU for them each time it
// wants to wait, and has no place where it lets go of them: its KVM_RUN returns EAGAIN at once, for ever.

namespace vmmd::vm {

/// Makes KVM forget an NMI that woke a vCPU which waits for INIT. Runs nothing of the guest. An INIT that
/// comes meanwhile counts. True if there was an NMI. By the vCPU's thread; `signal` has a handler and is not
/// blocked.
Result<bool> forget_early_nmi(const kvm::VcpuFd& vcpu, int signal);

}  // namespace vmmd::vm
