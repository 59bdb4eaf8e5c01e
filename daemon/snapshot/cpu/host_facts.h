#pragma once

#include <linux/kvm.h>

#include <vector>

#include "base/result.h"
#include "daemon/snapshot/cpu/host_cpu.h"

namespace vmmd::snapshot {

/// What KVM can give a guest here.
class HostFacts {
 public:
  HostFacts() = default;
  virtual ~HostFacts() = default;
  HostFacts(const HostFacts&) = delete;
  HostFacts& operator=(const HostFacts&) = delete;
  [[nodiscard]] virtual Result<std::vector<kvm_cpuid_entry2>> cpuid() const = 0;
  [[nodiscard]] virtual Result<HostTsc> tsc() const = 0;
};

/// Asked of /dev/kvm when needed.
class ThisHost final : public HostFacts {
 public:
  [[nodiscard]] Result<std::vector<kvm_cpuid_entry2>> cpuid() const override;
  [[nodiscard]] Result<HostTsc> tsc() const override;
};

}  // namespace vmmd::snapshot
