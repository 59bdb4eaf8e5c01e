#include <array>

#include "daemon/x86/boot_layout.h"
#include "daemon/x86/loader.h"

namespace vmmd::x86 {

using devices::GuestAddress;

namespace {

// Intel SDM vol. 3A, 2.5 and 2.2.1.
constexpr std::uint64_t kCr0ProtectedMode = 1 << 0;
constexpr std::uint64_t kCr0ExtensionType = 1 << 4;
constexpr std::uint64_t kCr0Paging = std::uint64_t{1} << 31;
constexpr std::uint64_t kCr4Pae = 1 << 5;
constexpr std::uint64_t kEferLongMode = (1 << 8) | (1 << 10);  // LME, LMA
constexpr std::uint64_t kRflagsFixed = 1 << 1;                 // always set; interrupts are off

// Segment descriptors (SDM vol. 3A, 3.4.5). The selectors are those that Linux' 64-bit boot protocol asks
// for.
constexpr std::uint64_t kFlatCode32 = 0x00CF'9B00'0000'FFFF;
constexpr std::uint64_t kFlatCode64 = 0x00AF'9B00'0000'FFFF;
constexpr std::uint64_t kFlatData = 0x00CF'9300'0000'FFFF;
constexpr std::uint64_t kBusyTss = 0x0000'8B00'0000'0067;  // VMX demands a busy one
constexpr std::uint16_t kCodeSelector = 0x10;
constexpr std::uint16_t kDataSelector = 0x18;
constexpr std::uint16_t kTssSelector = 0x20;

constexpr std::uint64_t kPagePresent = 1 << 0;
constexpr std::uint64_t kPageWritable = 1 << 1;
constexpr std::uint64_t kPageLarge = 1 << 7;
constexpr std::uint64_t kLargePageSize = 2 << 20;
constexpr std::size_t kTableEntries = 512;
constexpr std::uint64_t kDirectories = 4;  // of 1 GiB each
using PageTable = std::array<std::uint64_t, kTableEntries>;

/// The hidden part of a segment register, as loading `selector` from the GDT would fill it.
kvm_segment segment_of(std::uint64_t descriptor, std::uint16_t selector) {
  const auto bits = [&](unsigned at, unsigned count) {
    return static_cast<std::uint32_t>((descriptor >> at) & ((std::uint64_t{1} << count) - 1));
  };
  const auto flag = [&](unsigned at, unsigned count = 1) {
    return static_cast<std::uint8_t>(bits(at, count));
  };
  kvm_segment segment = {};
  segment.base = bits(16, 24) | (bits(56, 8) << 24);
  segment.limit = bits(0, 16) | (bits(48, 4) << 16);
  segment.selector = selector;
  segment.type = flag(40, 4);
  segment.s = flag(44);
  segment.dpl = flag(45, 2);
  segment.present = flag(47);
  segment.avl = flag(52);
  segment.l = flag(53);
  segment.db = flag(54);
  segment.g = flag(55);
  if (segment.g != 0) segment.limit = (segment.limit << 12) | 0xFFF;
  return segment;
}

/// The first 4 GiB, each address mapped to itself by 2 MiB pages.
bool write_identity_map(const devices::GuestMemory& memory) {
  constexpr std::uint64_t kTable = kPagePresent | kPageWritable;
  const auto table_at = [](std::uint64_t index) { return kPageTablesStart + index * memory::kPageSize; };
  PageTable table = {};
  table[0] = table_at(1) | kTable;
  if (!memory.store(GuestAddress(table_at(0)), table)) return false;
  for (std::uint64_t i = 0; i < kDirectories; ++i) table[i] = table_at(2 + i) | kTable;
  if (!memory.store(GuestAddress(table_at(1)), table)) return false;
  std::uint64_t page = 0;
  for (std::uint64_t i = 0; i < kDirectories; ++i) {
    for (std::uint64_t& entry : table) {
      entry = page | kTable | kPageLarge;
      page += kLargePageSize;
    }
    if (!memory.store(GuestAddress(table_at(2 + i)), table)) return false;
  }
  return true;
}

}  // namespace

Status set_boot_registers(const LoadedKernel& kernel, const devices::GuestMemory& memory, kvm_regs& regs,
                          kvm_sregs& sregs) {
  const bool long_mode = kernel.protocol == BootProtocol::Linux64;
  const std::uint64_t code = long_mode ? kFlatCode64 : kFlatCode32;

  // A TSS descriptor of long mode is 16 bytes wide: its upper half is the last entry.
  const std::array<std::uint64_t, 6> gdt{0, 0, code, kFlatData, kBusyTss, 0};
  if (!memory.store(GuestAddress(kGdtStart), gdt) || (long_mode && !write_identity_map(memory))) {
    return fail(ErrorCode::Internal, "no guest RAM for the boot processor's GDT and page tables");
  }

  sregs.cs = segment_of(code, kCodeSelector);
  const kvm_segment data = segment_of(kFlatData, kDataSelector);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
  sregs.tr = segment_of(kBusyTss, kTssSelector);
  sregs.gdt.base = kGdtStart;
  sregs.gdt.limit = sizeof gdt - 1;
  // No protocol promises handlers: an exception before the kernel's own IDT is a triple fault.
  sregs.idt.base = 0;
  sregs.idt.limit = 0;
  sregs.cr0 = kCr0ProtectedMode | kCr0ExtensionType;
  sregs.cr3 = 0;
  sregs.cr4 = 0;
  sregs.efer = 0;
  if (long_mode) {
    sregs.cr0 |= kCr0Paging;
    sregs.cr3 = kPageTablesStart;
    sregs.cr4 = kCr4Pae;
    sregs.efer = kEferLongMode;
  }

  regs = {};
  regs.rip = kernel.entry.value;
  regs.rflags = kRflagsFixed;
  (kernel.protocol == BootProtocol::Pvh ? regs.rbx : regs.rsi) = kernel.boot_info.value;
  return {};
}

}  // namespace vmmd::x86
