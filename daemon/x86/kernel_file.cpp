#include "daemon/x86/kernel_file.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/file.h"
#include "daemon/x86/boot_layout.h"

namespace vmmd::x86 {

using devices::GuestAddress;

namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

std::uint64_t mib_up(std::uint64_t bytes) {
  return bytes / kMiB + (bytes % kMiB != 0 ? 1 : 0);
}

std::uint64_t size_of(const std::vector<memory::RamRange>& ram) {
  std::uint64_t sum = 0;
  for (const memory::RamRange& range : ram) sum += range.size;
  return sum;
}

Error no_room(const BootTarget& target, const std::vector<Span>& taken, std::uint64_t size,
              std::uint64_t limit) {
  std::uint64_t kernel_end = memory::kHighMemoryStart;
  for (const Span& span : taken) kernel_end = std::max(kernel_end, span.end);
  const bool fits_low = kernel_end < memory::kLowRamLimit && size <= memory::kLowRamLimit - kernel_end;
  if (limit <= memory::kHighRamStart && (!fits_low || kernel_end > limit || size > limit - kernel_end)) {
    return fail(ErrorCode::BadRequest,
                "initramfs {} has {} MiB; kernel {} takes it only below {:#x}, where no memory size makes "
                "room "
                "for it: make it smaller or put its content on a disk",
                target.files.initramfs_name, mib_up(size), target.files.kernel_name,
                std::min(limit, memory::kLowRamLimit))
        .value();
  }
  const std::uint64_t before = fits_low ? kernel_end : memory::kLowRamLimit;
  return fail(ErrorCode::BadRequest,
              "initramfs {} has {} MiB, which do not fit beside the kernel in {} MiB of memory: give the VM "
              "at "
              "least {} MiB",
              target.files.initramfs_name, mib_up(size), size_of(target.ram) / kMiB,
              mib_up(before) + mib_up(size))
      .value();
}

}  // namespace

Status read_into_guest(const devices::GuestMemory& memory, GuestAddress to, std::uint64_t length, int fd,
                       std::uint64_t offset, const std::string& name) {
  if (length == 0) return {};
  const std::span<std::byte> slice = memory.slice(to, length);
  if (slice.empty()) {
    return fail(ErrorCode::Internal, "{:#x} and {} bytes on are not guest RAM", to.value, length);
  }
  Status read = read_exact_at(fd, slice, offset, name);
  // Also after an error: part of it may have arrived.
  memory.mark_dirty(to, length);
  return read;
}

std::optional<std::string> why_not_kernel_memory(const BootTarget& target, const Span& span) {
  if (span.start < kBootAreaEnd) {
    return fmt::format("guest memory below {:#x} holds the boot structures", kBootAreaEnd);
  }
  if (span.start < memory::kHighMemoryStart && span.end > memory::kEbdaStart) {
    return fmt::format("guest memory from {:#x} to {:#x} holds the firmware tables", memory::kEbdaStart,
                       memory::kHighMemoryStart);
  }
  if (!target.memory.slice(GuestAddress(span.start), span.end - span.start).empty()) return std::nullopt;
  if (span.end <= memory::kLowRamLimit) {
    return fmt::format("memory is {} MiB: give the VM at least {} MiB", size_of(target.ram) / kMiB,
                       mib_up(span.end));
  }
  return fmt::format("there is no RAM there: RAM below 4 GiB ends at {:#x} at the latest",
                     memory::kLowRamLimit);
}

Status write_cmdline(const BootTarget& target, std::uint64_t limit) {
  const std::string& cmdline = target.files.cmdline;
  limit = std::min(limit, kCmdlineSize - 1);
  if (cmdline.size() > limit) {
    return fail(ErrorCode::BadRequest,
                "the command line has {} bytes; kernel {} takes at most {}: shorten it", cmdline.size(),
                target.files.kernel_name, limit);
  }
  if (const std::size_t nul = cmdline.find('\0'); nul != std::string::npos) {
    return fail(ErrorCode::BadRequest, "the command line has a NUL at byte {}, where the kernel would end it",
                nul);
  }
  // c_str(): with the NUL.
  if (!target.memory.write(GuestAddress(kCmdlineStart),
                           std::as_bytes(std::span(cmdline.c_str(), cmdline.size() + 1)))) {
    return fail(ErrorCode::Internal, "no guest RAM for the command line at {:#x}", kCmdlineStart);
  }
  return {};
}

Result<Span> load_initramfs(const BootTarget& target, const std::vector<Span>& taken,
                            std::span<const std::uint64_t> limits) {
  const BootFiles& files = target.files;
  if (files.initramfs_fd < 0) return Span{};
  auto size = file_size(files.initramfs_fd, files.initramfs_name);
  if (!size) return wrap(std::move(size).error(), "cannot load initramfs {}", files.initramfs_name);
  if (*size == 0) return fail(ErrorCode::BadRequest, "initramfs {} is empty", files.initramfs_name);

  std::optional<GuestAddress> place;
  for (const std::uint64_t limit : limits) {
    place = place_high(target.ram, taken, *size, limit);
    if (place) break;
  }
  if (!place) return tl::make_unexpected(no_room(target, taken, *size, limits.back()));
  auto read = read_into_guest(target.memory, *place, *size, files.initramfs_fd, 0, files.initramfs_name);
  if (!read) return wrap(std::move(read).error(), "cannot load initramfs {}", files.initramfs_name);
  return Span{place->value, place->value + *size};
}

}  // namespace vmmd::x86
