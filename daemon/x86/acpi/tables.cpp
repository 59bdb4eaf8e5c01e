#include "daemon/x86/acpi/tables.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <span>
#include <string_view>

#include "daemon/x86/acpi/dsdt.h"
#include "daemon/x86/acpi/little_endian.h"

namespace vmmd::x86 {
namespace {

using devices::GuestAddress;
using Table = std::vector<std::uint8_t>;

constexpr std::size_t kLengthOffset = 4;
constexpr std::size_t kChecksumOffset = 9;
constexpr std::string_view kOemId = "VMMD  ";

void put_text(Table& table, std::string_view text) {
  table.insert(table.end(), text.begin(), text.end());
}
void put_zeros(Table& table, std::size_t count) {
  table.resize(table.size() + count);
}

/// What makes the bytes sum up to zero.
std::uint8_t checksum(std::span<const std::uint8_t> bytes) {
  return static_cast<std::uint8_t>(-std::accumulate(bytes.begin(), bytes.end(), 0));
}

/// The header of ACPI 6.4, 5.2.6; seal() fills in length and checksum.
Table start_table(std::string_view signature, std::uint8_t revision) {
  Table table;
  put_text(table, signature);
  put_zeros(table, 4);  // length
  table.push_back(revision);
  put_zeros(table, 1);  // checksum
  put_text(table, kOemId);
  put_text(table, "VMMDTABL");
  put_le(table, std::uint32_t{1});  // OEM revision
  put_text(table, "VMMD");          // creator
  put_le(table, std::uint32_t{1});
  return table;
}

void seal(Table& table) {
  set_le(table, kLengthOffset, static_cast<std::uint32_t>(table.size()));
  table[kChecksumOffset] = 0;
  table[kChecksumOffset] = checksum(table);
}

/// Generic Address Structure of system I/O ports (5.2.3.2).
void set_port_register(Table& table, std::size_t offset, std::uint16_t port, std::uint8_t bits) {
  constexpr std::uint8_t kSystemIo = 1;
  table[offset] = kSystemIo;
  table[offset + 1] = bits;
  table[offset + 2] = 0;  // bit offset
  table[offset + 3] =
      static_cast<std::uint8_t>(bits == 8 ? 1 : bits / 16 + 1);  // access size: 1 byte, 2 word, 3 dword
  set_le(table, offset + 4, std::uint64_t{port});
}

/// FADT, 5.2.9. What is not set is zero, which for most fields means "does not exist".
Table fadt(const AcpiConfig& config, std::uint64_t dsdt, std::uint64_t facs) {
  constexpr std::size_t kSize = 276;
  constexpr std::uint8_t kMinorRevision = 5;
  // Offsets.
  constexpr std::size_t kPmTimerBlock = 76, kPmTimerLength = 91, kBootArch = 109, kFlags = 112,
                        kResetRegister = 116, kResetValue = 128, kMinor = 131, kXDsdt = 140,
                        kXPmTimerBlock = 208, kFirmwareControl = 36, kSci = 46, kPm1EventBlock = 56,
                        kPm1ControlBlock = 64, kPm1EventLength = 88, kPm1ControlLength = 89, kC2Latency = 96,
                        kC3Latency = 98, kXPm1EventBlock = 148, kXPm1ControlBlock = 172, kSleepControl = 244,
                        kSleepStatus = 256, kHypervisor = 268;
  // IA-PC boot architecture flags, table 5.11. Without the PC's devices the 8042 bit stays
  // clear: ours then only resets, and Linux would spend time on probing for a keyboard.
  constexpr std::uint16_t kLegacyDevices = 1U << 0, k8042 = 1U << 1, kVgaNotPresent = 1U << 2,
                          kNoCmosRtc = 1U << 5;
  // Fixed feature flags, table 5.10.
  constexpr std::uint32_t kWbinvd = 1U << 0, kC1 = 1U << 2, kPowerButtonIsDevice = 1U << 4,
                          kNoSleepButton = 1U << 5, kRtcNoWake = 1U << 6, kTimer32Bit = 1U << 8,
                          kResetRegisterSupported = 1U << 10, kHardwareReduced = 1U << 20;

  Table table = start_table("FACP", 6);
  table.resize(kSize);
  // A hardware-reduced machine has no PM timer by the specification; Linux takes it from here all the same.
  set_le(table, kPmTimerBlock, std::uint32_t{memory::kAcpiPmTimerPort});
  table[kPmTimerLength] = 4;
  set_port_register(table, kXPmTimerBlock, memory::kAcpiPmTimerPort, 32);
  const unsigned boot_arch = kVgaNotPresent | (config.serial || config.pc ? kLegacyDevices : 0U) |
                             (config.pc ? k8042 : 0U) | (config.rtc ? 0U : kNoCmosRtc);
  set_le(table, kBootArch, static_cast<std::uint16_t>(boot_arch));
  set_le(table, kFlags,
         kWbinvd | kC1 | kNoSleepButton | kRtcNoWake | kTimer32Bit | kResetRegisterSupported |
             (config.pc ? 0U : kPowerButtonIsDevice | kHardwareReduced));
  set_port_register(table, kResetRegister, memory::kAcpiResetPort, 8);
  table[kResetValue] = memory::kAcpiResetValue;
  table[kMinor] = kMinorRevision;
  set_le(table, kXDsdt, dsdt);  // the 32-bit field must then be zero
  if (config.pc) {
    constexpr std::uint16_t kNoSuchState = 0xFFF;  // microseconds: too long for C2 and C3 to exist
    constexpr std::uint16_t kControl = memory::kAcpiPm1Port + 4;
    set_le(table, kFirmwareControl, static_cast<std::uint32_t>(facs));
    set_le(table, kSci, static_cast<std::uint16_t>(memory::kSciGsi));
    set_le(table, kPm1EventBlock, std::uint32_t{memory::kAcpiPm1Port});
    set_le(table, kPm1ControlBlock, std::uint32_t{kControl});
    table[kPm1EventLength] = 4;
    table[kPm1ControlLength] = 2;
    set_le(table, kC2Latency, kNoSuchState);
    set_le(table, kC3Latency, kNoSuchState);
    set_port_register(table, kXPm1EventBlock, memory::kAcpiPm1Port, 32);
    set_port_register(table, kXPm1ControlBlock, kControl, 16);
  } else {
    set_port_register(table, kSleepControl, memory::kAcpiSleepPort, 8);
    set_port_register(table, kSleepStatus, memory::kAcpiSleepStatusPort, 8);
  }
  std::copy_n("VMMD", 4, table.begin() + kHypervisor);
  seal(table);
  return table;
}

/// FACS, 5.2.10: no checksum. A machine that is not hardware-reduced has one, though nothing here uses it.
Table facs() {
  constexpr std::uint32_t kSize = 64;
  constexpr std::size_t kVersion = 32;
  Table table;
  put_text(table, "FACS");
  put_le(table, kSize);
  table.resize(kSize);
  table[kVersion] = 2;
  return table;
}

/// MADT, 5.2.12.
Table madt(const AcpiConfig& config) {
  constexpr std::uint8_t kLocalApic = 0, kIoApic = 1, kSourceOverride = 2, kLocalX2Apic = 9;
  constexpr std::uint32_t kEnabled = 1;
  constexpr std::uint32_t kFirstX2ApicId = 255;  // 8-bit ids end at 254: 255 is the broadcast

  Table table = start_table("APIC", 5);
  put_le(table, static_cast<std::uint32_t>(memory::kLapicStart));
  put_le(table, std::uint32_t{config.pc ? 1U : 0U});  // flags: whether there are 8259s
  for (std::uint32_t uid = 0; uid < config.apic_ids.size(); ++uid) {
    const std::uint32_t id = config.apic_ids[uid];
    if (id < kFirstX2ApicId && uid <= 0xFF) {
      table.insert(table.end(),
                   {kLocalApic, 8, static_cast<std::uint8_t>(uid), static_cast<std::uint8_t>(id)});
      put_le(table, kEnabled);
    } else {
      table.insert(table.end(), {kLocalX2Apic, 16, 0, 0});
      put_le(table, id);
      put_le(table, kEnabled);
      put_le(table, uid);
    }
  }
  table.insert(table.end(), {kIoApic, 12, 0, 0});  // id 0
  put_le(table, static_cast<std::uint32_t>(memory::kIoapicStart));
  put_le(table, std::uint32_t{0});  // first GSI
  // Edge, high: what ISA has anyway. But without an 8259 Linux maps only those ISA interrupts
  // that are named here, and its serial console asks for 4 before ACPI is up.
  const auto redirect = [&](unsigned line, unsigned gsi, std::uint16_t flags) {
    table.insert(table.end(), {kSourceOverride, 10, 0, static_cast<std::uint8_t>(line)});
    put_le(table, std::uint32_t{gsi});
    put_le(table, flags);
  };
  const auto isa = [&](unsigned line) { redirect(line, line, 0); };
  if (config.pc) {
    constexpr std::uint16_t kLevelHigh = 0x0D;
    redirect(memory::kPitIrq, memory::kPitGsi, 0);
    redirect(memory::kSciGsi, memory::kSciGsi, kLevelHigh);
  }
  if (config.serial) isa(memory::kSerialGsi);
  if (config.rtc) isa(memory::kRtcGsi);
  seal(table);
  return table;
}

/// MCFG, PCI Firmware Specification 3.2, 4.1.2.
Table mcfg(const AcpiConfig& config) {
  Table table = start_table("MCFG", 1);
  put_zeros(table, 8);
  put_le(table, memory::kEcamStart);
  put_le(table, std::uint16_t{0});  // segment
  table.push_back(0);               // first bus
  table.push_back(config.pci_last_bus);
  put_zeros(table, 4);
  seal(table);
  return table;
}

Table dsdt(const AcpiConfig& config) {
  Table table = start_table("DSDT", 2);  // 2: integers have 64 bits
  const aml::Bytes body = dsdt_body(config);
  table.insert(table.end(), body.begin(), body.end());
  seal(table);
  return table;
}

/// RSDP, 5.2.5.3. Two checksums: over the 20 bytes of ACPI 1.0 and over all 36.
Table rsdp(std::uint64_t xsdt) {
  constexpr std::size_t kFirstPart = 20, kFirstChecksum = 8, kExtendedChecksum = 32;
  Table table;
  put_text(table, "RSD PTR ");
  put_zeros(table, 1);
  put_text(table, kOemId);
  table.push_back(2);               // revision
  put_le(table, std::uint32_t{0});  // no RSDT
  put_le(table, std::uint32_t{36});
  put_le(table, xsdt);
  put_zeros(table, 4);
  table[kFirstChecksum] = checksum(std::span(table).first(kFirstPart));
  table[kExtendedChecksum] = checksum(table);
  return table;
}

/// Places tables one behind the other between the two bounds of the reserved area.
class Area {
 public:
  explicit Area(const devices::GuestMemory& guest) : guest_(guest) {}

  /// Where `table` was put.
  Result<std::uint64_t> add(std::span<const std::uint8_t> table) {
    constexpr std::uint64_t kAlign = 64;  // what the FACS asks for
    constexpr std::uint64_t kEnd = kVmGenIdAddress.value;
    const std::uint64_t address = next_;
    if (address > kEnd || table.size() > kEnd - address) {
      return fail(
          ErrorCode::BadRequest,
          "the ACPI tables do not fit into the {} bytes reserved for them: fewer vCPUs or PCI devices",
          kEnd - memory::kAcpiTablesStart);
    }
    if (!guest_.write(GuestAddress(address), std::as_bytes(table))) {
      return fail(ErrorCode::BadRequest, "no guest RAM at {:#x} for ACPI tables: more memory is needed",
                  address);
    }
    next_ = (address + table.size() + kAlign - 1) & ~(kAlign - 1);
    return address;
  }

 private:
  const devices::GuestMemory& guest_;
  std::uint64_t next_ = memory::kAcpiTablesStart;
};

Status check(const AcpiConfig& config) {
  constexpr unsigned kSlots = 32;
  if (config.apic_ids.empty()) return fail(ErrorCode::BadRequest, "ACPI tables need at least one vCPU");
  if (config.ram.empty()) return fail(ErrorCode::BadRequest, "ACPI tables need the layout of guest RAM");
  if (config.intx_slots.size() > kSlots) {
    return fail(ErrorCode::BadRequest, "{} PCI slots with interrupts, of {}", config.intx_slots.size(),
                kSlots);
  }
  for (const unsigned slot : config.intx_slots) {
    if (slot >= kSlots) return fail(ErrorCode::BadRequest, "PCI slot {} is not in 0..{}", slot, kSlots - 1);
  }
  return {};
}

}  // namespace

Result<GuestAddress> write_acpi_tables(const devices::GuestMemory& guest, const AcpiConfig& config) {
  VMMD_TRY(check(config));
  Area area(guest);
  // The RSDP comes first, so that a kernel which scans for it finds it at once; it is written again when the
  // XSDT's address is known.
  VMMD_ASSIGN(const std::uint64_t root, area.add(rsdp(0)));
  VMMD_ASSIGN(const std::uint64_t dsdt_address, area.add(dsdt(config)));
  std::array<std::uint64_t, 3> tables{};
  std::uint64_t facs_address = 0;
  if (config.pc) {
    VMMD_ASSIGN(facs_address, area.add(facs()));
  }
  VMMD_ASSIGN(tables[0], area.add(fadt(config, dsdt_address, facs_address)));
  VMMD_ASSIGN(tables[1], area.add(madt(config)));
  VMMD_ASSIGN(tables[2], area.add(mcfg(config)));
  Table xsdt = start_table("XSDT", 1);
  for (const std::uint64_t address : tables) put_le(xsdt, address);
  seal(xsdt);
  VMMD_ASSIGN(const std::uint64_t xsdt_address, area.add(xsdt));
  const Table pointer = rsdp(xsdt_address);
  if (!guest.write(GuestAddress(root), std::as_bytes(std::span(pointer)))) {
    return fail(ErrorCode::Internal, "guest RAM at {:#x} went away", root);
  }
  return GuestAddress(root);
}

}  // namespace vmmd::x86
