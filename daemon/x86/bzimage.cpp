#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include <asm/bootparam.h>

#include "daemon/x86/boot_layout.h"
#include "daemon/x86/kernel_file.h"

// Linux' own boot protocol: Documentation/arch/x86/boot.rst and zero-page.rst.
namespace vmmd::x86 {

using devices::GuestAddress;

namespace {

constexpr std::size_t kHeaderStart = offsetof(boot_params, hdr);  // the same in file and zero page
constexpr std::size_t kHeaderLimit = offsetof(boot_params, edd_mbr_sig_buffer);
// "jump" is a short jump over the header: it ends where its second byte leads to.
constexpr std::size_t kJumpEnd = 0x202;
constexpr std::uint64_t kSectorSize = 512;
constexpr std::uint64_t kParagraphSize = 16;       // unit of syssize
constexpr std::uint64_t kEntry64Offset = 0x200;    // startup_64 from the load address
constexpr std::uint8_t kUndefinedLoader = 0xFF;    // type_of_loader without an assigned number
constexpr std::uint16_t kMinimumVersion = 0x020A;  // init_size and pref_address
constexpr std::uint16_t kXloadflagsVersion = 0x020C;
constexpr std::uint16_t kRsdpVersion = 0x020E;  // acpi_rsdp_addr in the zero page
constexpr std::uint64_t kIdentityMapEnd = std::uint64_t{4} << 30;
static_assert(sizeof(boot_params) == 4096);

/// The checked setup header and what follows from it.
struct BzImage {
  setup_header header = {};
  std::size_t header_size = 0;  // as the kernel has it: newer ones are longer than the struct that we know
  bool is_64bit = false;
  std::uint64_t payload_offset = 0;  // the protected-mode kernel in the file
  std::uint64_t payload_size = 0;
  std::uint64_t load_address = 0;
};

Status check_version(const KernelFile& kernel, const setup_header& header) {
  if (header.version < kMinimumVersion) {
    return fail(ErrorCode::BadRequest,
                "kernel {} speaks Linux boot protocol {}.{:02}; 2.10 and later (Linux 2.6.31) are supported: "
                "use a newer kernel",
                kernel.name, header.version >> 8, header.version & 0xFF);
  }
  if ((header.loadflags & LOADED_HIGH) == 0) {
    return fail(ErrorCode::BadRequest, "kernel {} is a zImage, which loads below 1 MiB: build a bzImage",
                kernel.name);
  }
  return {};
}

/// Where the kernel goes: at its preferred address. One that can be moved would run no lower than there
/// anyway, and needs init_size bytes from there on to unpack itself.
Result<std::uint64_t> load_address(const KernelFile& kernel, const setup_header& header) {
  // Fields of the packed header are copied before anything takes their address.
  const std::uint64_t preferred = header.pref_address;
  const std::uint64_t alignment = header.kernel_alignment;
  if (header.relocatable_kernel == 0) return preferred;
  if (!std::has_single_bit(alignment)) {
    return fail(ErrorCode::BadRequest, "kernel {}: its alignment {:#x} is not a power of two", kernel.name,
                alignment);
  }
  if (preferred > kIdentityMapEnd) return preferred;
  return (preferred + alignment - 1) & ~(alignment - 1);
}

Result<BzImage> read_header(const KernelFile& kernel) {
  BzImage image;
  const auto jump = kernel.peek<std::uint8_t>(offsetof(boot_params, hdr.jump) + 1);
  const auto header = kernel.peek<setup_header>(kHeaderStart);
  if (!header || !jump) {
    return fail(ErrorCode::BadRequest, "kernel {} is truncated: {} bytes end within the setup header",
                kernel.name, kernel.size);
  }
  image.header = *header;
  VMMD_TRY(check_version(kernel, image.header));
  image.header_size = std::min(kJumpEnd + *jump, kHeaderLimit) - kHeaderStart;
  if (image.header_size < offsetof(setup_header, handover_offset)) {
    return fail(ErrorCode::BadRequest, "kernel {}: its setup header ends at {:#x}, before init_size",
                kernel.name, kHeaderStart + image.header_size);
  }
  image.is_64bit =
      image.header.version >= kXloadflagsVersion && (image.header.xloadflags & XLF_KERNEL_64) != 0;

  const std::uint64_t setup_sectors = image.header.setup_sects != 0 ? image.header.setup_sects : 4;
  image.payload_offset = (setup_sectors + 1) * kSectorSize;
  // What follows, a signature for secure boot, is not for us.
  image.payload_size = std::uint64_t{image.header.syssize} * kParagraphSize;
  if (image.payload_size <= kEntry64Offset) {
    return fail(ErrorCode::BadRequest, "kernel {}: its header speaks of {} bytes of kernel", kernel.name,
                image.payload_size);
  }
  const std::uint64_t rest = kernel.size - std::min(kernel.size, image.payload_offset);
  // Linux pads to a paragraph since 2.6.27; other builders may leave the last one short.
  if (rest < image.payload_size && image.payload_size - rest >= kParagraphSize) {
    return fail(ErrorCode::BadRequest,
                "kernel {} is truncated: its header speaks of {} bytes from {:#x} on, the file has {}",
                kernel.name, image.payload_size, image.payload_offset, rest);
  }
  image.payload_size = std::min(image.payload_size, rest);
  VMMD_ASSIGN(image.load_address, load_address(kernel, image.header));
  return image;
}

/// The memory that the kernel needs before it reads the memory map.
Result<Span> check_place(const KernelFile& kernel, const BootTarget& target, const BzImage& image) {
  const std::uint64_t size = image.header.init_size;
  if (size < image.payload_size) {
    return fail(ErrorCode::BadRequest,
                "kernel {}: {} bytes do not fit in the {} that it says it needs to start", kernel.name,
                image.payload_size, size);
  }
  if (image.load_address >= kIdentityMapEnd || size > kIdentityMapEnd - image.load_address) {
    return fail(ErrorCode::BadRequest, "kernel {} wants to be loaded at {:#x}: only below 4 GiB is possible",
                kernel.name, image.load_address);
  }
  const Span span{image.load_address, image.load_address + size};
  if (const auto why = why_not_kernel_memory(target, span)) {
    return fail(ErrorCode::BadRequest, "kernel {} needs {} MiB at {:#x} to start: {}", kernel.name,
                (size + (1 << 20) - 1) >> 20, span.start, *why);
  }
  return span;
}

Result<Span> place_initramfs(const BootTarget& target, const BzImage& image, const Span& kernel_memory) {
  // initrd_addr_max is the last byte, not the one behind it.
  const std::uint64_t low = std::uint64_t{image.header.initrd_addr_max} + 1;
  const std::array limits{low, ~std::uint64_t{0}};
  const bool anywhere = image.is_64bit && (image.header.xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G) != 0;
  return load_initramfs(target, {kernel_memory}, std::span(limits).first(anywhere ? 2 : 1));
}

Status write_zero_page(const KernelFile& kernel, const BootTarget& target, const BzImage& image,
                       const Span& initramfs) {
  boot_params page = {};
  // Only the header: the rest of the file's first sectors is old boot code that the kernel would misread.
  std::memcpy(reinterpret_cast<std::byte*>(&page) + kHeaderStart, kernel.head_bytes.data() + kHeaderStart,
              image.header_size);
  page.hdr.type_of_loader = kUndefinedLoader;
  page.hdr.loadflags = static_cast<std::uint8_t>(page.hdr.loadflags & ~(KASLR_FLAG | CAN_USE_HEAP));
  page.hdr.code32_start = static_cast<std::uint32_t>(image.load_address);
  page.hdr.cmd_line_ptr = kCmdlineStart;
  page.hdr.ramdisk_image = static_cast<std::uint32_t>(initramfs.start);
  page.ext_ramdisk_image = static_cast<std::uint32_t>(initramfs.start >> 32);
  page.hdr.ramdisk_size = static_cast<std::uint32_t>(initramfs.end - initramfs.start);
  page.ext_ramdisk_size = static_cast<std::uint32_t>((initramfs.end - initramfs.start) >> 32);
  page.hdr.setup_data = 0;
  // Older kernels search 0xE0000-0xFFFFF, where it lies too.
  if (image.header.version >= kRsdpVersion) page.acpi_rsdp_addr = target.rsdp.value;

  const auto map = boot_memory_map(target.ram);
  if (map.size() > std::size(page.e820_table)) {
    return fail(ErrorCode::Internal, "{} ranges are too many for the memory map", map.size());
  }
  std::transform(map.begin(), map.end(), page.e820_table, [](const MemoryMapEntry& entry) {
    return boot_e820_entry{entry.start.value, entry.size, static_cast<std::uint32_t>(entry.type)};
  });
  page.e820_entries = static_cast<std::uint8_t>(map.size());
  if (!target.memory.store(GuestAddress(kZeroPageStart), page)) {
    return fail(ErrorCode::Internal, "no guest RAM for the zero page at {:#x}", kZeroPageStart);
  }
  return {};
}

}  // namespace

Result<LoadedKernel> load_bzimage(const KernelFile& kernel, const BootTarget& target) {
  VMMD_ASSIGN(const BzImage image, read_header(kernel));
  VMMD_ASSIGN(const Span kernel_memory, check_place(kernel, target, image));
  VMMD_TRY(write_cmdline(target, image.header.cmdline_size));
  VMMD_TRY(read_into_guest(target.memory, GuestAddress(image.load_address), image.payload_size, kernel.fd,
                           image.payload_offset, kernel.name));
  VMMD_ASSIGN(const Span initramfs, place_initramfs(target, image, kernel_memory));
  VMMD_TRY(write_zero_page(kernel, target, image, initramfs));
  return LoadedKernel{image.is_64bit ? BootProtocol::Linux64 : BootProtocol::Linux32,
                      GuestAddress(image.load_address + (image.is_64bit ? kEntry64Offset : 0)),
                      GuestAddress(kZeroPageStart)};
}

}  // namespace vmmd::x86
