#include "daemon/snapshot/format/host_cpu.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <new>

#include "base/unique_fd.h"
#include "daemon/snapshot/format/cpu_features.h"
#include "daemon/snapshot/format/posix.h"

namespace vmmd::snapshot {

namespace {

/// More than KVM ever had (KVM_MAX_CPUID_ENTRIES is 256).
constexpr std::uint32_t kEntries = 1024;

std::vector<kvm_cpuid_entry2> cpuid_of(const CpuIdentity& identity) {
  std::vector<kvm_cpuid_entry2> entries;
  entries.reserve(static_cast<std::size_t>(identity.cpuid_size()));
  for (const CpuidLeaf& leaf : identity.cpuid()) {
    kvm_cpuid_entry2 entry = {};
    entry.function = leaf.function();
    entry.index = leaf.index();
    entry.flags = leaf.flags();
    entry.eax = leaf.eax();
    entry.ebx = leaf.ebx();
    entry.ecx = leaf.ecx();
    entry.edx = leaf.edx();
    entries.push_back(entry);
  }
  return entries;
}

}  // namespace

Result<std::vector<std::string>> features_host_lacks(const CpuIdentity& guest) {
  const UniqueFd kvm(retry([] { return ::open("/dev/kvm", O_RDWR | O_CLOEXEC); }));
  if (!kvm) return fail_errno(ErrorCode::NotSupported, errno, "cannot open /dev/kvm");
  // struct kvm_cpuid2 ends in an array of no length, which C++ does not have.
  std::vector<std::byte> buffer(sizeof(kvm_cpuid2) + kEntries * sizeof(kvm_cpuid_entry2));
  auto* const head = ::new (buffer.data()) kvm_cpuid2{};
  head->nent = kEntries;
  if (::ioctl(kvm.get(), KVM_GET_SUPPORTED_CPUID, head) != 0) {
    return fail_errno(ErrorCode::NotSupported, errno, "cannot ask KVM for its CPUID");
  }
  std::vector<kvm_cpuid_entry2> entries(head->nent);
  std::memcpy(entries.data(), buffer.data() + sizeof(kvm_cpuid2), entries.size() * sizeof(kvm_cpuid_entry2));
  return missing_features(cpuid_of(guest), entries);
}

}  // namespace vmmd::snapshot
