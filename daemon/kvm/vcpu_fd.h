#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "daemon/kvm/vm_fd.h"

namespace vmmd::kvm {

/// One vCPU and its shared run page. The ioctls below may be called by any thread while the vCPU is not in
/// KVM_RUN.
class VcpuFd {
 public:
  static Result<VcpuFd> create(const VmFd& vm, std::uint32_t apic_id);
  VcpuFd(VcpuFd&& other) noexcept;
  VcpuFd& operator=(VcpuFd&&) = delete;
  ~VcpuFd();

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] kvm_run& run_page() const { return *run_; }
  /// Bytes of the XSAVE area of this KVM.
  [[nodiscard]] std::size_t xsave_size() const { return xsave_size_; }
  /// The guest's TSC frequency; 0 if KVM cannot tell. Asked once: each ioctl of a vCPU costs 5 us.
  [[nodiscard]] std::uint32_t tsc_khz() const;
  /// Scales the guest's TSC (KVM_CAP_TSC_CONTROL).
  Status set_tsc_khz(std::uint32_t khz) const;
  /// The guest's TSC minus the host's (scaled) one, KVM_VCPU_TSC_OFFSET; nothing before Linux 5.16.
  [[nodiscard]] Result<std::optional<std::uint64_t>> get_tsc_offset() const;
  Status set_tsc_offset(std::uint64_t offset) const;
  /// KVM_RUN once. 0, or errno (EINTR after a signal or with immediate_exit set).
  [[nodiscard]] int run() const;

  /// KVM_MP_STATE_*. Asking makes KVM take an INIT or STARTUP that has come.
  Result<std::uint32_t> mp_state() const;
  /// Forgets an NMI that is pending, and nothing else: an INIT may come meanwhile. True if there was one.
  Result<bool> drop_nmi() const;

  Status set_cpuid(std::span<const kvm_cpuid_entry2> entries) const;

  /// Reads the listed MSRs; one that this KVM cannot read is left out.
  Result<std::vector<kvm_msr_entry>> get_msrs(std::span<const std::uint32_t> indices) const;
  Result<std::uint64_t> get_msr(std::uint32_t index) const;
  /// Writes in order. KVM stops at the first one it refuses: that one is appended to `refused` and the rest
  /// go on.
  Status set_msrs(std::span<const kvm_msr_entry> entries, std::vector<std::uint32_t>& refused) const;

  /// Plain get/set pairs of fixed-size structures: `get<KVM_GET_REGS, kvm_regs>()`.
  template <unsigned long kRequest, class T>
  [[nodiscard]] Result<T> get(const char* what) const {
    T value = {};
    VMMD_TRY(call(kRequest, &value, what));
    return value;
  }
  template <unsigned long kRequest, class T>
  Status set(const T& value, const char* what) const {
    T copy = value;
    return call(kRequest, &copy, what);
  }
  /// Any ioctl of this vCPU; `what` names it in the error.
  Status call(unsigned long request, void* argument, const char* what) const;

 private:
  VcpuFd(UniqueFd fd, kvm_run* run, const Kvm& kvm)
      : fd_(std::move(fd)), run_(run), run_size_(kvm.run_size()), xsave_size_(kvm.xsave_size()) {}

  UniqueFd fd_;
  kvm_run* run_ = nullptr;
  std::size_t run_size_ = 0;
  std::size_t xsave_size_ = 0;
  mutable std::optional<std::uint32_t> tsc_khz_;
};

/// KVM_MP_STATE_*: an application processor that waits for INIT or STARTUP. It takes no NMI.
[[nodiscard]] constexpr bool waits_for_start(std::uint32_t mp_state) {
  return mp_state == KVM_MP_STATE_UNINITIALIZED || mp_state == KVM_MP_STATE_INIT_RECEIVED;
}

}  // namespace vmmd::kvm
