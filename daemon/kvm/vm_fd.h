#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <memory>
#include <span>

#include "daemon/kvm/kvm.h"
#include "devices/guest_memory.h"
#include "devices/interrupt.h"

namespace vmmd::kvm {

/// A KVM virtual machine: LAPICs in the kernel, IOAPIC and everything else in user space (split irqchip).
///
/// Order that costs least (see docs/performance.md): create, memory regions, then vCPUs. A memory region that
/// is set after the first vCPU exists costs milliseconds (an SRCU grace period each).
class VmFd {
 public:
  static Result<VmFd> create(std::shared_ptr<const Kvm> kvm);

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] const Kvm& kvm() const { return *kvm_; }

  /// One memory slot. `flags`: KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY.
  Status set_memory_region(unsigned slot, const devices::GuestRegion& region, unsigned flags = 0) const;
  Status set_routing(std::span<const kvm_irq_routing_entry> entries) const;
  /// Delivers an MSI to the LAPICs. True if at least one took it.
  [[nodiscard]] bool signal_msi(devices::MsiMessage message) const;

  /// Makes the guest's 2-byte writes to `address` signals of `eventfd`, or ends that.
  enum class IoEvent { Add, Remove };
  Status set_io_event(IoEvent action, std::uint64_t address, int eventfd) const;

  /// The paravirtual clock (kvmclock).
  Result<kvm_clock_data> get_clock() const;
  Status set_clock(const kvm_clock_data& clock) const;

 private:
  VmFd(std::shared_ptr<const Kvm> kvm, UniqueFd fd) : kvm_(std::move(kvm)), fd_(std::move(fd)) {}
  Status enable(std::uint32_t capability, std::uint64_t argument, const char* name) const;

  std::shared_ptr<const Kvm> kvm_;
  UniqueFd fd_;
};

}  // namespace vmmd::kvm
