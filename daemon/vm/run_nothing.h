#pragma once

#include "base/result.h"
#include "daemon/kvm/vcpu_fd.h"

namespace vmmd::vm {

/// KVM_RUN with `signal` pending: KVM completes the exit before, looks after its requests, and comes back
/// before it enters the guest. (immediate_exit comes back before the requests.) What VcpuFd::run() returns:
/// EINTR, or 0 for an exit that a request made. By the vCPU's thread; `signal` has a handler and is not
/// blocked.
Result<int> run_nothing(const kvm::VcpuFd& vcpu, int signal);

}  // namespace vmmd::vm
