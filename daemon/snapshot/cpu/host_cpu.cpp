#include "daemon/snapshot/cpu/host_cpu.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <new>

#include <fmt/format.h>

#include "base/unique_fd.h"
#include "daemon/snapshot/cpu/cpu_features.h"
#include "daemon/snapshot/cpu/cpuid_messages.h"
#include "daemon/snapshot/format/posix.h"
#include "daemon/snapshot/format/problems.h"

namespace vmmd::snapshot {

namespace {

/// More than KVM ever had (KVM_MAX_CPUID_ENTRIES is 256).
constexpr std::uint32_t kEntries = 1024;

}  // namespace

Result<std::vector<kvm_cpuid_entry2>> supported_cpuid(int kvm) {
  // struct kvm_cpuid2 ends in an array of no length, which C++ does not have.
  std::vector<std::byte> buffer(sizeof(kvm_cpuid2) + kEntries * sizeof(kvm_cpuid_entry2));
  auto* const head = ::new (buffer.data()) kvm_cpuid2{};
  head->nent = kEntries;
  if (::ioctl(kvm, KVM_GET_SUPPORTED_CPUID, head) != 0) {
    return fail_errno(ErrorCode::NotSupported, errno, "cannot ask KVM for its CPUID");
  }
  std::vector<kvm_cpuid_entry2> entries(head->nent);
  std::memcpy(entries.data(), buffer.data() + sizeof(kvm_cpuid2), entries.size() * sizeof(kvm_cpuid_entry2));
  return entries;
}

Result<HostTsc> host_tsc(int kvm) {
  const UniqueFd vm(retry([kvm] { return ::ioctl(kvm, KVM_CREATE_VM, 0); }));
  if (!vm) return fail_errno(ErrorCode::NotSupported, errno, "cannot make a VM to ask for the TSC frequency");
  const UniqueFd vcpu(retry([&vm] { return ::ioctl(vm.get(), KVM_CREATE_VCPU, 0); }));
  if (!vcpu)
    return fail_errno(ErrorCode::NotSupported, errno, "cannot make a vCPU to ask for the TSC frequency");
  const int khz = ::ioctl(vcpu.get(), KVM_GET_TSC_KHZ, 0);
  return HostTsc{khz > 0 ? static_cast<std::uint32_t>(khz) : 0,
                 ::ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0};
}

std::string vendor_of(std::span<const kvm_cpuid_entry2> cpuid) {
  for (const kvm_cpuid_entry2& entry : cpuid) {
    if (entry.function != 0) continue;
    const std::array parts{entry.ebx, entry.edx, entry.ecx};  // in the order of the text
    std::string vendor(sizeof parts, '\0');
    std::memcpy(vendor.data(), parts.data(), sizeof parts);
    return vendor;
  }
  return {};
}

std::optional<std::string> vendor_problem(const CpuIdentity& guest, std::span<const kvm_cpuid_entry2> cpuid) {
  const std::string here = vendor_of(cpuid);
  if (guest.vendor().empty() || here.empty() || guest.vendor() == here) return std::nullopt;
  return fmt::format(
      "the guest was told of a CPU by {} ({}), this host's is by {}: what only one of them has, registers "
      "and "
      "mended errata among it, can end a guest at any time; restore it on a host of its CPU's maker, or with "
      "cpu_check=ignore nevertheless",
      shown(guest.vendor()), shown(guest.brand()), shown(here));
}

std::optional<std::string> feature_problem(const CpuIdentity& guest,
                                           std::span<const kvm_cpuid_entry2> cpuid) {
  const std::vector<std::string> missing = missing_features(from_messages(guest.cpuid()), cpuid);
  if (missing.empty()) return std::nullopt;
  return fmt::format(
      "this host's CPU lacks {} that the guest was told of ({}); cpu_check=ignore restores nevertheless",
      fmt::join(missing, ", "), shown(guest.brand()));
}

bool tsc_differs(std::uint64_t guest_khz, std::uint32_t host_khz) {
  constexpr std::uint64_t kTolerancePpm = 250;
  constexpr std::uint64_t kMillion = 1'000'000;
  if (guest_khz == 0 || host_khz == 0) return false;
  const std::uint64_t difference = guest_khz > host_khz ? guest_khz - host_khz : host_khz - guest_khz;
  return difference > kTolerancePpm * host_khz / kMillion;
}

std::optional<std::string> tsc_problem(std::uint64_t guest_khz, const HostTsc& host) {
  if (host.scales || !tsc_differs(guest_khz, host.khz)) return std::nullopt;
  return fmt::format(
      "the guest's TSC runs at {} kHz, this host's at {} kHz, and this host cannot scale it "
      "(KVM_CAP_TSC_CONTROL); cpu_check=ignore restores nevertheless",
      guest_khz, host.khz);
}

}  // namespace vmmd::snapshot
