#pragma once

#include <cstdint>

#include "daemon/memory/layout.h"

// What the loader puts below 1 MiB. The guest may take all of it back once it has read it; up to kEbdaStart
// the memory map calls it usable RAM. Addresses are guest physical.
//
//   0x00500 GDT                          every protocol
//   0x06000 hvm_start_info and its lists PVH
//   0x07000 zero page (boot_params)      Linux
//   0x09000 page tables, 6 pages         Linux, 64-bit entry
//   0x20000 command line, up to 64 KiB   every protocol
//   0x30000 free for kernels             up to kEbdaStart
//   0xE0000 ACPI tables                  written by others, reserved in the memory map
namespace vmmd::x86 {

inline constexpr std::uint64_t kGdtStart = 0x500;
inline constexpr std::uint64_t kStartInfoStart = 0x6000;
inline constexpr std::uint64_t kZeroPageStart = 0x7000;
inline constexpr std::uint64_t kPageTablesStart = 0x9000;  // PML4, PDPT, four page directories
inline constexpr std::uint64_t kPageTablesSize = 6 * memory::kPageSize;
inline constexpr std::uint64_t kCmdlineStart = 0x2'0000;
inline constexpr std::uint64_t kCmdlineSize = 0x1'0000;  // with the closing NUL
inline constexpr std::uint64_t kBootAreaEnd = kCmdlineStart + kCmdlineSize;

static_assert(kPageTablesStart + kPageTablesSize <= kCmdlineStart);
static_assert(kBootAreaEnd <= memory::kEbdaStart);

}  // namespace vmmd::x86
