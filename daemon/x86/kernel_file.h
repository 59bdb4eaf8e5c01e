#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "daemon/memory/layout.h"
#include "daemon/x86/boot_memory_map.h"
#include "daemon/x86/loader.h"
#include "devices/guest_memory.h"

// What the loaders of the two formats share: the file with its first page, and ways into guest memory.
namespace vmmd::x86 {

/// A kernel file whose size and first page are known: all headers of a usual kernel lie in it, so that one
/// read tells what the file is and where its parts go.
struct KernelFile {
  static constexpr std::size_t kHeadSize = 4096;

  int fd = -1;
  const std::string& name;
  std::uint64_t size = 0;
  std::array<std::byte, kHeadSize> head_bytes;  // valid up to head().size()

  [[nodiscard]] std::span<const std::byte> head() const {
    return std::span(head_bytes).first(size < kHeadSize ? size : kHeadSize);
  }
  /// A copy of the T at `offset` of the first page; nothing where the file ends before.
  template <class T>
  [[nodiscard]] std::optional<T> peek(std::size_t offset) const {
    const auto bytes = head();
    if (offset > bytes.size() || sizeof(T) > bytes.size() - offset) return std::nullopt;
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
  }
};

/// Everything a loader writes to, and the user's files.
struct BootTarget {
  const devices::GuestMemory& memory;
  const std::vector<memory::RamRange>& ram;
  const BootFiles& files;
  devices::GuestAddress rsdp;
};

/// Reads file bytes [offset, offset + length) straight into guest memory, which must be RAM of one region.
Status read_into_guest(const devices::GuestMemory& memory, devices::GuestAddress to, std::uint64_t length,
                       int fd, std::uint64_t offset, const std::string& name);

/// Why kernel code or data cannot lie in [span.start, span.end): outside RAM, or over what boot_layout.h
/// keeps there. Nothing where it can.
[[nodiscard]] std::optional<std::string> why_not_kernel_memory(const BootTarget& target, const Span& span);

/// Writes the command line with its NUL to kCmdlineStart. `limit`: bytes that the kernel takes without it.
Status write_cmdline(const BootTarget& target, std::uint64_t limit);

/// Loads the initramfs as high as it goes below the first of `limits` that leaves room outside `taken`.
/// {0, 0} where the user gave none.
Result<Span> load_initramfs(const BootTarget& target, const std::vector<Span>& taken,
                            std::span<const std::uint64_t> limits);

Result<LoadedKernel> load_pvh(const KernelFile& kernel, const BootTarget& target);
Result<LoadedKernel> load_bzimage(const KernelFile& kernel, const BootTarget& target);

}  // namespace vmmd::x86
