#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/result.h"
#include "base/unique_fd.h"

namespace vmmd::memory {

/// Keeps the daemon alive when guest RAM turns out to have nothing behind it: a memory file that was cut, a
/// tmpfs that is full, a page of the host that failed. The kernel answers the next touch with SIGBUS.
///
/// A touch of our own (a device, a snapshot) then goes on with zeros in that page, which is remembered here:
/// the guest's memory is no longer what it was, so its VM must not go on. vCPUs do not come this way, their
/// KVM_RUN fails with EFAULT. A SIGBUS anywhere else does what it did without us.
class RamGuard {
 public:
  static Result<std::unique_ptr<RamGuard>> create();
  ~RamGuard();
  RamGuard(const RamGuard&) = delete;
  RamGuard& operator=(const RamGuard&) = delete;

  /// Covers the mapping [start, start + size) of pages of `page_size` from now on. TooMany beyond what all
  /// guards of the process can cover together.
  Status cover(std::byte* start, std::size_t size, std::size_t page_size);

  /// Readable once something has been lost.
  [[nodiscard]] int fd() const { return event_.get(); }
  /// The host address that was touched first, of those that are lost.
  [[nodiscard]] std::optional<std::uintptr_t> first_lost() const;

 private:
  explicit RamGuard(UniqueFd event) : event_(std::move(event)) {}

  UniqueFd event_;
};

}  // namespace vmmd::memory
