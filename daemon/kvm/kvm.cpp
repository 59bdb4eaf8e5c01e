#include "daemon/kvm/kvm.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include <fmt/format.h>

#include "base/file.h"

namespace vmmd::kvm {

namespace {

struct Capability {
  int number;
  std::string_view name;
};

constexpr std::array kRequired{
    Capability{KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    Capability{KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP"},
    Capability{KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"},
    Capability{KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"},
    Capability{KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
    Capability{KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
    Capability{KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
    Capability{KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    Capability{KVM_CAP_GET_MSR_FEATURES, "KVM_CAP_GET_MSR_FEATURES"},
    Capability{KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
    Capability{KVM_CAP_XCRS, "KVM_CAP_XCRS"},
    Capability{KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"},
    Capability{KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
    Capability{KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
    Capability{KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK"},
    Capability{KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ"},
    Capability{KVM_CAP_TSC_DEADLINE_TIMER, "KVM_CAP_TSC_DEADLINE_TIMER"},
    Capability{KVM_CAP_X2APIC_API, "KVM_CAP_X2APIC_API"},
};

constexpr unsigned kMaxCpuidEntries = 256;  // KVM_MAX_CPUID_ENTRIES
constexpr unsigned kMaxMsrIndices = 4096;

// The kernel's variable-length structures: a header and entries in one buffer.
template <class Header, class Entry>
struct Sized {
  explicit Sized(unsigned count) : storage(sizeof(Header) + count * sizeof(Entry)) {}
  Header* get() { return reinterpret_cast<Header*>(storage.data()); }
  std::vector<std::byte> storage;
};

Result<std::vector<kvm_cpuid_entry2>> get_supported_cpuid(int fd) {
  Sized<kvm_cpuid2, kvm_cpuid_entry2> buffer(kMaxCpuidEntries);
  buffer.get()->nent = kMaxCpuidEntries;
  if (retrying_ioctl(fd, KVM_GET_SUPPORTED_CPUID, buffer.get()) < 0) {
    return fail_errno(ErrorCode::Internal, errno, "KVM_GET_SUPPORTED_CPUID failed");
  }
  return std::vector<kvm_cpuid_entry2>(buffer.get()->entries, buffer.get()->entries + buffer.get()->nent);
}

Result<std::vector<std::uint32_t>> get_msr_indices(int fd) {
  Sized<kvm_msr_list, std::uint32_t> buffer(kMaxMsrIndices);
  buffer.get()->nmsrs = kMaxMsrIndices;
  if (retrying_ioctl(fd, KVM_GET_MSR_INDEX_LIST, buffer.get()) < 0) {
    return fail_errno(ErrorCode::Internal, errno, "KVM_GET_MSR_INDEX_LIST failed");
  }
  return std::vector<std::uint32_t>(buffer.get()->indices, buffer.get()->indices + buffer.get()->nmsrs);
}

}  // namespace

int retrying_ioctl(int fd, unsigned long request, void* argument) {
  int result = 0;
  do {
    result = ::ioctl(fd, request, argument);
  } while (result < 0 && errno == EINTR);
  return result;
}

int Kvm::check(int capability) const {
  const int value = ::ioctl(fd_.get(), KVM_CHECK_EXTENSION, capability);
  return value < 0 ? 0 : value;
}

Result<std::shared_ptr<const Kvm>> Kvm::open(const std::string& path) {
  std::shared_ptr<Kvm> kvm(new Kvm);
  auto fd = open_file(path, O_RDWR);
  if (!fd) {
    return wrap(std::move(fd).error(),
                "KVM is not available: load kvm_intel or kvm_amd, and let this user open {} (group kvm)",
                path);
  }
  kvm->fd_ = std::move(*fd);
  VMMD_TRY(kvm->probe(path));
  return std::shared_ptr<const Kvm>(std::move(kvm));
}

Status Kvm::probe(const std::string& path) {
  const int version = ::ioctl(fd_.get(), KVM_GET_API_VERSION, 0);
  if (version < 0) return fail(ErrorCode::NotSupported, "{} is not KVM: {}", path, std::strerror(errno));
  if (version != KVM_API_VERSION) {
    return fail(ErrorCode::NotSupported, "{} speaks API version {}, vmmd needs {}", path, version,
                KVM_API_VERSION);
  }
  std::string missing;
  for (const Capability& capability : kRequired) {
    if (check(capability.number) <= 0)
      missing += fmt::format("{}{}", missing.empty() ? "" : ", ", capability.name);
  }
  if (!missing.empty()) return fail(ErrorCode::NotSupported, "this host's KVM lacks {}", missing);
  const int run_size = ::ioctl(fd_.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (run_size < static_cast<int>(sizeof(kvm_run))) {
    return fail_errno(ErrorCode::Internal, errno, "KVM_GET_VCPU_MMAP_SIZE failed");
  }
  run_size_ = static_cast<std::size_t>(run_size);
  max_vcpus_ = static_cast<unsigned>(check(KVM_CAP_MAX_VCPUS));
  const int xsave = check(KVM_CAP_XSAVE2);
  xsave_size_ =
      xsave > static_cast<int>(sizeof(kvm_xsave)) ? static_cast<std::size_t>(xsave) : sizeof(kvm_xsave);
  VMMD_ASSIGN(supported_cpuid_, get_supported_cpuid(fd_.get()));
  VMMD_ASSIGN(msr_indices_, get_msr_indices(fd_.get()));
  return {};
}

}  // namespace vmmd::kvm
