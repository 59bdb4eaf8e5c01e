#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <string>

#include "daemon/kvm/vcpu_fd.h"

namespace vmmd::vm {

/// Why a vCPU stopped for good.
struct VcpuStop {
  enum class Reason : std::uint8_t {
    TripleFault,    // the guest faulted while it delivered a double fault
    InternalError,  // KVM could not go on: an instruction it cannot emulate
    EntryFailed,    // the CPU refused the guest's state
    RunFailed,      // KVM_RUN itself failed
    MemoryLost,     // the host has no page for what the guest touched
    Reset,          // the guest asked for it (KVM_SYSTEM_EVENT_RESET)
    Shutdown,       // the guest asked for it (KVM_SYSTEM_EVENT_SHUTDOWN)
  };
  unsigned vcpu = 0;
  Reason reason = Reason::RunFailed;
  std::string message;  // for people: what the guest did
};

[[nodiscard]] const char* to_string(VcpuStop::Reason reason);

/// Describes the exit in the vCPU's run page that nothing can be done about.
[[nodiscard]] VcpuStop describe_stop(unsigned index, const kvm::VcpuFd& fd);
/// Describes a KVM_RUN that failed with `error`.
[[nodiscard]] VcpuStop describe_failure(unsigned index, const kvm::VcpuFd& fd, int error);

}  // namespace vmmd::vm
