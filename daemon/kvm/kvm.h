#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace vmmd::kvm {

/// ioctl(2) that retries EINTR and EAGAIN-free calls once interrupted; -1 with errno otherwise.
int retrying_ioctl(int fd, unsigned long request, void* argument);

/// /dev/kvm, opened and probed: everything vmmd needs is there, or open() says by name what is missing.
/// Immutable afterwards and shared by all that is built on it.
class Kvm {
 public:
  /// Costs about 0.3 ms, most of it KVM_GET_SUPPORTED_CPUID, which is asked once and kept.
  static Result<std::shared_ptr<const Kvm>> open(const std::string& path = "/dev/kvm");

  [[nodiscard]] int fd() const { return fd_.get(); }
  /// The value of a KVM_CAP_*: 0 where it is missing.
  [[nodiscard]] int check(int capability) const;
  [[nodiscard]] std::size_t run_size() const { return run_size_; }  // bytes of struct kvm_run's mapping
  [[nodiscard]] unsigned max_vcpus() const { return max_vcpus_; }
  [[nodiscard]] const std::vector<kvm_cpuid_entry2>& supported_cpuid() const { return supported_cpuid_; }
  /// KVM_GET_MSR_INDEX_LIST.
  [[nodiscard]] const std::vector<std::uint32_t>& msr_indices() const { return msr_indices_; }
  /// Bytes of struct kvm_xsave as KVM_GET_XSAVE2 fills it (4096 where there is no XSAVE2).
  [[nodiscard]] std::size_t xsave_size() const { return xsave_size_; }

 private:
  Kvm() = default;
  Status probe(const std::string& path);

  UniqueFd fd_;
  std::size_t run_size_ = 0;
  unsigned max_vcpus_ = 0;
  std::size_t xsave_size_ = 0;
  std::vector<kvm_cpuid_entry2> supported_cpuid_;
  std::vector<std::uint32_t> msr_indices_;
};

}  // namespace vmmd::kvm
