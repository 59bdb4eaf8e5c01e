#include "daemon/kvm/vcpu_fd.h"

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace vmmd::kvm {

namespace {
constexpr std::size_t kMsrBatch = 256;  // KVM takes at most MAX_IO_MSRS = 256 in one call

struct MsrBuffer {
  std::vector<std::byte> storage =
      std::vector<std::byte>(sizeof(kvm_msrs) + kMsrBatch * sizeof(kvm_msr_entry));
  kvm_msrs* get() { return reinterpret_cast<kvm_msrs*>(storage.data()); }
};
}  // namespace

Result<VcpuFd> VcpuFd::create(const VmFd& vm, std::uint32_t apic_id) {
  const int fd = ::ioctl(vm.fd(), KVM_CREATE_VCPU, apic_id);
  if (fd < 0)
    return fail_errno(ErrorCode::Internal, errno, "cannot create the vCPU with APIC id {}", apic_id);
  UniqueFd owned(fd);
  const std::size_t size = vm.kvm().run_size();
  void* page = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (page == MAP_FAILED) return fail_errno(ErrorCode::Internal, errno, "cannot map the vCPU's run page");
  return VcpuFd(std::move(owned), static_cast<kvm_run*>(page), vm.kvm());
}

VcpuFd::VcpuFd(VcpuFd&& other) noexcept
    : fd_(std::move(other.fd_)),
      run_(std::exchange(other.run_, nullptr)),
      run_size_(other.run_size_),
      xsave_size_(other.xsave_size_),
      tsc_khz_(other.tsc_khz_) {}

VcpuFd::~VcpuFd() {
  if (run_ != nullptr) ::munmap(run_, run_size_);
}

std::uint32_t VcpuFd::tsc_khz() const {
  if (!tsc_khz_) {
    const int khz = ::ioctl(fd_.get(), KVM_GET_TSC_KHZ, 0);
    tsc_khz_ = khz < 0 ? 0 : static_cast<std::uint32_t>(khz);
  }
  return *tsc_khz_;
}

Status VcpuFd::set_tsc_khz(std::uint32_t khz) const {
  if (::ioctl(fd_.get(), KVM_SET_TSC_KHZ, static_cast<unsigned long>(khz)) < 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot set the TSC frequency to {} kHz", khz);
  }
  tsc_khz_.reset();  // KVM may round it
  return {};
}

namespace {
kvm_device_attr tsc_offset_attribute(std::uint64_t* value) {
  kvm_device_attr attribute = {};
  attribute.group = KVM_VCPU_TSC_CTRL;
  attribute.attr = KVM_VCPU_TSC_OFFSET;
  attribute.addr = reinterpret_cast<std::uint64_t>(value);
  return attribute;
}
}  // namespace

Result<std::optional<std::uint64_t>> VcpuFd::get_tsc_offset() const {
  std::uint64_t offset = 0;
  kvm_device_attr attribute = tsc_offset_attribute(&offset);
  if (retrying_ioctl(fd_.get(), KVM_GET_DEVICE_ATTR, &attribute) == 0) return offset;
  // No such attribute, or a vCPU without attributes at all.
  if (errno == ENXIO || errno == ENOTTY || errno == EINVAL) return std::nullopt;
  return fail_errno(ErrorCode::Internal, errno, "reading the TSC offset failed");
}

Status VcpuFd::set_tsc_offset(std::uint64_t offset) const {
  kvm_device_attr attribute = tsc_offset_attribute(&offset);
  return call(KVM_SET_DEVICE_ATTR, &attribute, "writing the TSC offset");
}

int VcpuFd::run() const {
  return ::ioctl(fd_.get(), KVM_RUN, 0) < 0 ? errno : 0;
}

Result<std::uint32_t> VcpuFd::mp_state() const {
  VMMD_ASSIGN(const auto state, (get<KVM_GET_MP_STATE, kvm_mp_state>("KVM_GET_MP_STATE")));
  return state.mp_state;
}

Result<bool> VcpuFd::drop_nmi() const {
  VMMD_ASSIGN(auto events, (get<KVM_GET_VCPU_EVENTS, kvm_vcpu_events>("KVM_GET_VCPU_EVENTS")));
  if (events.nmi.pending == 0) return false;
  events.nmi.pending = 0;
  events.flags =
      KVM_VCPUEVENT_VALID_NMI_PENDING;  // with VALID_SMM it would also write whether INIT is pending
  VMMD_TRY(set<KVM_SET_VCPU_EVENTS>(events, "KVM_SET_VCPU_EVENTS"));
  return true;
}

Status VcpuFd::call(unsigned long request, void* argument, const char* what) const {
  if (retrying_ioctl(fd_.get(), request, argument) < 0) {
    return fail_errno(ErrorCode::Internal, errno, "{} failed", what);
  }
  return {};
}

Status VcpuFd::set_cpuid(std::span<const kvm_cpuid_entry2> entries) const {
  std::vector<std::byte> buffer(sizeof(kvm_cpuid2) + entries.size_bytes());
  auto* cpuid = reinterpret_cast<kvm_cpuid2*>(buffer.data());
  cpuid->nent = static_cast<std::uint32_t>(entries.size());
  if (!entries.empty()) std::memcpy(cpuid->entries, entries.data(), entries.size_bytes());
  return call(KVM_SET_CPUID2, cpuid, "KVM_SET_CPUID2");
}

Result<std::vector<kvm_msr_entry>> VcpuFd::get_msrs(std::span<const std::uint32_t> indices) const {
  MsrBuffer buffer;
  std::vector<kvm_msr_entry> entries;
  entries.reserve(indices.size());
  while (!indices.empty()) {
    const std::size_t n = std::min(indices.size(), kMsrBatch);
    kvm_msrs* msrs = buffer.get();
    msrs->nmsrs = static_cast<std::uint32_t>(n);
    for (std::size_t i = 0; i < n; ++i) msrs->entries[i] = {indices[i], 0, 0};
    const int got = retrying_ioctl(fd_.get(), KVM_GET_MSRS, msrs);
    if (got < 0) return fail_errno(ErrorCode::Internal, errno, "KVM_GET_MSRS failed");
    const auto done = static_cast<std::size_t>(got);
    entries.insert(entries.end(), msrs->entries, msrs->entries + done);
    // The one at which KVM stopped cannot be read: step over it.
    indices = indices.subspan(done == n ? n : done + 1);
  }
  return entries;
}

Result<std::uint64_t> VcpuFd::get_msr(std::uint32_t index) const {
  VMMD_ASSIGN(const auto entries, get_msrs({&index, 1}));
  if (entries.empty()) return fail(ErrorCode::Internal, "MSR {:#x} cannot be read", index);
  return entries.front().data;
}

Status VcpuFd::set_msrs(std::span<const kvm_msr_entry> entries, std::vector<std::uint32_t>& refused) const {
  MsrBuffer buffer;
  while (!entries.empty()) {
    const std::size_t n = std::min(entries.size(), kMsrBatch);
    kvm_msrs* msrs = buffer.get();
    msrs->nmsrs = static_cast<std::uint32_t>(n);
    std::copy_n(entries.begin(), n, msrs->entries);
    const int set = retrying_ioctl(fd_.get(), KVM_SET_MSRS, msrs);
    if (set < 0) return fail_errno(ErrorCode::Internal, errno, "KVM_SET_MSRS failed");
    const auto done = static_cast<std::size_t>(set);
    if (done < n) refused.push_back(entries[done].index);
    entries = entries.subspan(done == n ? n : done + 1);
  }
  return {};
}

}  // namespace vmmd::kvm
