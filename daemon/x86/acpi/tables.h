#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/result.h"
#include "daemon/memory/layout.h"
#include "devices/guest_address.h"
#include "devices/guest_memory.h"

namespace vmmd::x86 {

/// The page for the VM Generation ID, at the end of the area that is reserved for ACPI: the tables stay out
/// of it, and the guest's memory map says that it is not RAM.
inline constexpr devices::GuestAddress kVmGenIdAddress{memory::kHighMemoryStart - memory::kPageSize};

/// The GSI of a PCI slot's interrupt pin (0 is INTA#), the way the _PRT says it: swizzled over the eight
/// lines of the root, level-triggered, active high.
[[nodiscard]] constexpr unsigned pci_intx_gsi(unsigned slot, unsigned pin) {
  return memory::kFirstPciGsi + (slot + pin) % 8;
}

/// What the tables tell the guest about its machine.
struct AcpiConfig {
  std::vector<std::uint32_t> apic_ids;  // of vCPU 0, 1, ...: see apic_id_of()
  std::vector<memory::RamRange> ram;    // for where 64-bit PCI BARs start
  std::uint64_t memory_end = 0;         // of other memory above it, or 0
  unsigned max_phys_bits = 46;          // and end: below 2^max_phys_bits
  bool serial = false;                  // COM1
  bool rtc = false;                     // CMOS RTC
  bool pc = false;                      // the PC's old devices; then not hardware-reduced
  std::vector<unsigned> intx_slots;     // PCI slots (0..31) whose device drives INTA#; others have MSI only
  std::uint8_t pci_last_bus = 0;        // buses of the root: 0..this
  std::optional<devices::GuestAddress> vmgenid;  // usually kVmGenIdAddress
};

/// Builds RSDP, XSDT, FADT (hardware-reduced but for `pc`, which has a FACS too), MADT, MCFG and DSDT, writes
/// them into [memory::kAcpiTablesStart, kVmGenIdAddress) and returns the RSDP's address, always
/// kAcpiTablesStart. BadRequest if they do not fit or that range is not RAM.
///
/// The generic event device (devices::GenericEventDevice) interrupts by memory::kGedGsi, edge-triggered and
/// active high. _EVT reads the four bytes at memory::kGedPort once, which clears them.
Result<devices::GuestAddress> write_acpi_tables(const devices::GuestMemory& memory, const AcpiConfig& config);

}  // namespace vmmd::x86
