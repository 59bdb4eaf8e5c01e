#include <algorithm>
#include <array>
#include <cstring>

#include "daemon/x86/boot_layout.h"
#include "daemon/x86/elf_image.h"
#include "daemon/x86/kernel_file.h"

// PVH direct boot: xen/docs/misc/pvh.pandoc, xen/include/public/arch-x86/hvm/start_info.h.
namespace vmmd::x86 {

using devices::GuestAddress;

namespace {

constexpr std::uint32_t kStartMagic = 0x336E'C578;  // "xEn3" with bit 7 of the E set
constexpr std::uint32_t kStartVersion = 1;          // the first with a memory map

struct StartInfo {
  std::uint32_t magic = kStartMagic;
  std::uint32_t version = kStartVersion;
  std::uint32_t flags = 0;
  std::uint32_t module_count = 0;
  std::uint64_t module_list = 0;
  std::uint64_t cmdline = 0;
  std::uint64_t rsdp = 0;
  std::uint64_t memory_map = 0;
  std::uint32_t memory_map_entries = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(StartInfo) == 56);

struct ModuleEntry {
  std::uint64_t address = 0;
  std::uint64_t size = 0;
  std::uint64_t cmdline = 0;
  std::uint64_t reserved = 0;
};
static_assert(sizeof(ModuleEntry) == 32);

struct MapEntry {
  std::uint64_t address = 0;
  std::uint64_t size = 0;
  std::uint32_t type = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(MapEntry) == 24);

/// The page at kStartInfoStart, written in one go.
struct StartPage {
  static constexpr std::size_t kMapCapacity = 128;

  StartInfo info;
  ModuleEntry initramfs;
  std::array<MapEntry, kMapCapacity> map;
};
static_assert(sizeof(StartPage) <= kZeroPageStart - kStartInfoStart);

// arch/x86/include/asm/setup.h, COMMAND_LINE_SIZE less the NUL. PVH itself has no limit, but Linux cuts what
// is longer without a word.
constexpr std::uint64_t kLinuxCmdlineLimit = 2047;

Status write_start_info(const BootTarget& target, const Span& initramfs) {
  StartPage page = {};
  page.info.cmdline = kCmdlineStart;
  page.info.rsdp = target.rsdp.value;
  page.info.memory_map = kStartInfoStart + offsetof(StartPage, map);
  if (initramfs.end != 0) {
    page.info.module_count = 1;
    page.info.module_list = kStartInfoStart + offsetof(StartPage, initramfs);
    page.initramfs.address = initramfs.start;
    page.initramfs.size = initramfs.end - initramfs.start;
  }
  const auto map = boot_memory_map(target.ram);
  if (map.size() > page.map.size()) {
    return fail(ErrorCode::Internal, "{} ranges are too many for the memory map", map.size());
  }
  std::transform(map.begin(), map.end(), page.map.begin(), [](const MemoryMapEntry& entry) {
    return MapEntry{entry.start.value, entry.size, static_cast<std::uint32_t>(entry.type), 0};
  });
  page.info.memory_map_entries = static_cast<std::uint32_t>(map.size());
  const std::size_t used = offsetof(StartPage, map) + map.size() * sizeof(MapEntry);
  if (!target.memory.write(GuestAddress(kStartInfoStart), std::as_bytes(std::span(&page, 1)).first(used))) {
    return fail(ErrorCode::Internal, "no guest RAM for hvm_start_info at {:#x}", kStartInfoStart);
  }
  return {};
}

}  // namespace

Result<LoadedKernel> load_pvh(const KernelFile& kernel, const BootTarget& target) {
  VMMD_ASSIGN(const ElfImage image, read_elf(kernel));
  std::vector<Span> taken;
  taken.reserve(image.segments.size());
  for (const ElfImage::Segment& segment : image.segments) {
    if (const auto why = why_not_kernel_memory(target, segment.memory)) {
      return fail(ErrorCode::BadRequest,
                  "kernel {}: segment {} at {:#x} with {:#x} bytes cannot be loaded: {}", kernel.name,
                  segment.index, segment.memory.start, segment.memory.end - segment.memory.start, *why);
    }
    taken.push_back(segment.memory);
  }
  VMMD_TRY(write_cmdline(target, image.is_linux ? kLinuxCmdlineLimit : kCmdlineSize - 1));

  for (const ElfImage::Segment& segment : image.segments) {
    const GuestAddress start(segment.memory.start);
    VMMD_TRY(read_into_guest(target.memory, start, segment.file_size, kernel.fd, segment.file_offset,
                             kernel.name));
    // RAM may be a file that another guest wrote, so that its zeroes cannot be taken for granted.
    const std::uint64_t zeroes_at = segment.memory.start + segment.file_size;
    if (!target.memory.fill(GuestAddress(zeroes_at), segment.memory.end - zeroes_at, std::byte{0})) {
      return fail(ErrorCode::Internal, "kernel {}: segment {} left guest RAM", kernel.name, segment.index);
    }
  }
  // Linux takes 32 bits of the module's address.
  VMMD_ASSIGN(const Span initramfs, load_initramfs(target, taken, std::array{memory::kHighRamStart}));
  VMMD_TRY(write_start_info(target, initramfs));
  return LoadedKernel{BootProtocol::Pvh, GuestAddress(image.pvh_entry), GuestAddress(kStartInfoStart)};
}

}  // namespace vmmd::x86
