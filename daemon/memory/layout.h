#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "devices/guest_address.h"

namespace vmmd::memory {

// The guest physical address map. RAM below the 32-bit hole, devices in it, RAM again from 4 GiB.
inline constexpr std::uint64_t kLowRamLimit = 0xC000'0000;  // RAM below 4 GiB ends here at the latest
inline constexpr std::uint64_t kMmio32Start = 0xC000'0000;  // PCI BARs below 4 GiB
inline constexpr std::uint64_t kMmio32Size = 0x2800'0000;   // 640 MiB, up to the ECAM window
inline constexpr std::uint64_t kEcamStart = 0xE800'0000;    // PCIe ECAM, 1 MiB per bus
inline constexpr std::uint64_t kEcamSize = 0x1000'0000;     // 256 buses
inline constexpr std::uint64_t kIoapicStart = 0xFEC0'0000;  // Intel 82093AA
inline constexpr std::uint64_t kIoapicSize = 0x1000;
inline constexpr std::uint64_t kLapicStart = 0xFEE0'0000;
inline constexpr std::uint64_t kTssAddress = 0xFFFB'D000;  // KVM_SET_TSS_ADDR: three pages (VT-x without
                                                           // unrestricted guest), and after them:
inline constexpr std::uint64_t kIdentityMapAddress = 0xFFFB'C000;
inline constexpr std::uint64_t kHighRamStart = 0x1'0000'0000;  // RAM above 4 GiB
inline constexpr std::uint64_t kPageSize = 4096;

// Low memory, the PC's conventions.
inline constexpr std::uint64_t kEbdaStart = 0x9'FC00;         // usable low RAM ends here
inline constexpr std::uint64_t kAcpiTablesStart = 0xE'0000;   // RSDP and tables: reserved in the memory map
inline constexpr std::uint64_t kHighMemoryStart = 0x10'0000;  // kernel and everything else from 1 MiB

// Fixed ports and interrupt lines (GSIs) of the machine.
inline constexpr unsigned kIoapicPins = 24;
inline constexpr std::uint16_t kSerialPort = 0x3F8;  // COM1, 8 ports
inline constexpr unsigned kSerialGsi = 4;
inline constexpr std::uint16_t kRtcPort = 0x70;  // 0x70 index, 0x71 data
inline constexpr unsigned kRtcGsi = 8;
inline constexpr std::uint16_t kI8042Port = 0x60;         // 0x60 data, 0x64 command
inline constexpr std::uint16_t kDebugPort = 0x80;         // POST codes
inline constexpr std::uint16_t kPciConfigPort = 0xCF8;    // 0xCF8 address, 0xCFC data
inline constexpr std::uint16_t kAcpiPmTimerPort = 0x608;  // 4 ports
inline constexpr std::uint16_t kAcpiResetPort = 0x600;    // FADT RESET_REG: write kAcpiResetValue
inline constexpr std::uint8_t kAcpiResetValue = 1;
inline constexpr std::uint16_t kAcpiSleepPort = 0x601;        // FADT SLEEP_CONTROL_REG; S5 = SLP_TYP 5
inline constexpr std::uint16_t kAcpiSleepStatusPort = 0x602;  // FADT SLEEP_STATUS_REG
inline constexpr std::uint8_t kAcpiS5SleepType = 5;
// With the PC's old devices only. IRQ 0 is pin 2 of the IOAPIC, whose pin 0 is free.
inline constexpr std::uint16_t kPicMasterPort = 0x20;
inline constexpr std::uint16_t kPitPort = 0x40;
inline constexpr unsigned kPitIrq = 0;
inline constexpr unsigned kPitGsi = 2;
inline constexpr unsigned kKeyboardGsi = 1;
inline constexpr std::uint16_t kSpeakerPort = 0x61;
inline constexpr std::uint16_t kDmaPagePort = 0x81;  // to 0x8F
inline constexpr std::uint16_t kPicSlavePort = 0xA0;
inline constexpr std::uint16_t kPicElcrPort = 0x4D0;
inline constexpr std::uint16_t kAcpiPm1Port = 0x620;  // PM1a_EVT_BLK, 4 ports, and PM1a_CNT_BLK, 2
inline constexpr unsigned kSciGsi = 9;                // level
inline constexpr std::uint16_t kGedPort = 0x610;      // GED: one 4-byte event selector register
inline constexpr unsigned kGedGsi = 5;
inline constexpr unsigned kFirstPciGsi = 16;  // INTA..INTH of the PCI root: 16..23, level
inline constexpr unsigned kPciLines = 8;

/// One range of guest RAM.
struct RamRange {
  devices::GuestAddress start;
  std::uint64_t size = 0;  // bytes
  std::uint64_t file_offset =
      0;  // where it lies in memory.bin and in any backing file: ranges in order, flat
};

/// RAM of `size` bytes around the 32-bit hole. BadRequest if zero, not a multiple of 4 KiB, or beyond
/// 2^max_phys_bits.
Result<std::vector<RamRange>> ram_layout(std::uint64_t size, unsigned max_phys_bits);

/// Guest physical addresses for memory that is not RAM (pmem), of the given sizes in bytes: one after the
/// other from the first multiple of 1 GiB above RAM and 4 GiB on, each at a multiple of 2 MiB. BadRequest if
/// it does not end below 2^max_phys_bits.
Result<std::vector<std::uint64_t>> place_above_ram(const std::vector<RamRange>& ram,
                                                   const std::vector<std::uint64_t>& sizes,
                                                   unsigned max_phys_bits);

/// A range of guest physical addresses; empty if `size` is 0.
struct AddressRange {
  std::uint64_t start = 0;
  std::uint64_t size = 0;  // bytes
};

/// Where PCI BARs may lie: what the root's _CRS says, and what the root maps.
struct PciWindows {
  AddressRange low;   // below 4 GiB
  AddressRange high;  // above all memory and 4 GiB, from a multiple of 1 GiB to 2^max_phys_bits; may be empty
};
/// `memory_end`: of what place_above_ram() placed; 0 if nothing.
[[nodiscard]] PciWindows pci_windows(const std::vector<RamRange>& ram, unsigned max_phys_bits,
                                     std::uint64_t memory_end = 0);

}  // namespace vmmd::memory
