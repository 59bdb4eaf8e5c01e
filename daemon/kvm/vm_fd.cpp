#include "daemon/kvm/vm_fd.h"

#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "daemon/memory/layout.h"

namespace vmmd::kvm {

Result<VmFd> VmFd::create(std::shared_ptr<const Kvm> kvm) {
  int fd = -1;
  do {
    fd = ::ioctl(kvm->fd(), KVM_CREATE_VM, 0);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return fail_errno(ErrorCode::Internal, errno, "KVM_CREATE_VM failed");
  VmFd vm(std::move(kvm), UniqueFd(fd));
  // VT-x without "unrestricted guest" runs real mode with the help of these four pages. Elsewhere both are
  // remembered and cost nothing.
  std::uint64_t identity_map = memory::kIdentityMapAddress;
  if (vm.kvm().check(KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0) {
    if (retrying_ioctl(fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0) {
      return fail_errno(ErrorCode::Internal, errno, "KVM_SET_IDENTITY_MAP_ADDR failed");
    }
  }
  if (vm.kvm().check(KVM_CAP_SET_TSS_ADDR) > 0 && ::ioctl(fd, KVM_SET_TSS_ADDR, memory::kTssAddress) < 0) {
    return fail_errno(ErrorCode::Internal, errno, "KVM_SET_TSS_ADDR failed");
  }
  VMMD_TRY(vm.enable(KVM_CAP_SPLIT_IRQCHIP, memory::kIoapicPins, "KVM_CAP_SPLIT_IRQCHIP"));
  // 32-bit APIC ids in LAPIC state and MSIs; 0xff is a CPU like any other in x2APIC mode.
  VMMD_TRY(vm.enable(KVM_CAP_X2APIC_API,
                     KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
                     "KVM_CAP_X2APIC_API"));
  return vm;
}

Status VmFd::enable(std::uint32_t capability, std::uint64_t argument, const char* name) const {
  kvm_enable_cap enable = {};
  enable.cap = capability;
  enable.args[0] = argument;
  if (retrying_ioctl(fd_.get(), KVM_ENABLE_CAP, &enable) < 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot enable {}", name);
  }
  return {};
}

Status VmFd::set_memory_region(unsigned slot, const devices::GuestRegion& region, unsigned flags) const {
  kvm_userspace_memory_region request = {};
  request.slot = slot;
  request.flags = flags;
  request.guest_phys_addr = region.start.value;
  request.memory_size = region.size;
  request.userspace_addr = reinterpret_cast<std::uint64_t>(region.host);
  if (retrying_ioctl(fd_.get(), KVM_SET_USER_MEMORY_REGION, &request) < 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot map {} bytes of RAM at guest address {:#x}",
                      region.size, region.start.value);
  }
  return {};
}

Status VmFd::set_routing(std::span<const kvm_irq_routing_entry> entries) const {
  std::vector<std::byte> buffer(sizeof(kvm_irq_routing) + entries.size_bytes());
  auto* routing = reinterpret_cast<kvm_irq_routing*>(buffer.data());
  routing->nr = static_cast<std::uint32_t>(entries.size());
  if (!entries.empty()) std::memcpy(routing->entries, entries.data(), entries.size_bytes());
  if (retrying_ioctl(fd_.get(), KVM_SET_GSI_ROUTING, routing) < 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot set {} interrupt routes", entries.size());
  }
  return {};
}

bool VmFd::signal_msi(devices::MsiMessage message) const {
  kvm_msi msi = {};
  msi.address_lo = static_cast<std::uint32_t>(message.address);
  msi.address_hi = static_cast<std::uint32_t>(message.address >> 32);
  msi.data = message.data;
  return retrying_ioctl(fd_.get(), KVM_SIGNAL_MSI, &msi) > 0;
}

Status VmFd::set_io_event(IoEvent action, std::uint64_t address, int eventfd) const {
  kvm_ioeventfd request = {};
  request.addr = address;
  request.len = 2;
  request.fd = eventfd;
  request.flags = action == IoEvent::Remove ? KVM_IOEVENTFD_FLAG_DEASSIGN : 0U;
  if (retrying_ioctl(fd_.get(), KVM_IOEVENTFD, &request) < 0) {
    return fail_errno(ErrorCode::Internal, errno, "KVM_IOEVENTFD fails at guest address {:#x}", address);
  }
  return {};
}

Result<kvm_clock_data> VmFd::get_clock() const {
  kvm_clock_data clock = {};
  if (retrying_ioctl(fd_.get(), KVM_GET_CLOCK, &clock) < 0) {
    return fail_errno(ErrorCode::Internal, errno, "KVM_GET_CLOCK failed");
  }
  return clock;
}

Status VmFd::set_clock(const kvm_clock_data& clock) const {
  kvm_clock_data copy = clock;
  if (retrying_ioctl(fd_.get(), KVM_SET_CLOCK, &copy) < 0) {
    return fail_errno(ErrorCode::Internal, errno, "KVM_SET_CLOCK failed");
  }
  return {};
}

}  // namespace vmmd::kvm
