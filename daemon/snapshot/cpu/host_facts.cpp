#include "daemon/snapshot/cpu/host_facts.h"

#include <fcntl.h>

#include "base/file.h"

namespace vmmd::snapshot {

namespace {

Result<UniqueFd> open_kvm() {
  auto kvm = open_file("/dev/kvm", O_RDWR);
  if (!kvm) return fail(ErrorCode::NotSupported, "cannot open /dev/kvm: {}", kvm.error().to_string());
  return kvm;
}

}  // namespace

Result<std::vector<kvm_cpuid_entry2>> ThisHost::cpuid() const {
  VMMD_ASSIGN(const UniqueFd kvm, open_kvm());
  return supported_cpuid(kvm.get());
}

Result<HostTsc> ThisHost::tsc() const {
  VMMD_ASSIGN(const UniqueFd kvm, open_kvm());
  return host_tsc(kvm.get());
}

}  // namespace vmmd::snapshot
