#pragma once

#include <cstdint>

#include "base/result.h"

namespace vmmd::devices {

/// Makes the guest's 2-byte writes to an MMIO address signals of an eventfd, without a way through user space
/// (KVM_IOEVENTFD, about 3 us each to set up). Where none is registered, the write reaches the bus as any
/// other.
class IoEvents {
 public:
  virtual ~IoEvents() = default;
  virtual Status add(std::uint64_t address, int eventfd) = 0;
  virtual void remove(std::uint64_t address, int eventfd) = 0;
};

}  // namespace vmmd::devices
