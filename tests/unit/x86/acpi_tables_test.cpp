#include <algorithm>
#include <numeric>
#include <string_view>

#include <doctest/doctest.h>

#include "daemon/x86/acpi/tables.h"
#include "tests/unit/x86/acpi_fixture.h"

using namespace vmmd;
using namespace vmmd::x86;
using namespace vmmd::x86::test;

namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

unsigned sum(const std::vector<std::uint8_t>& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), 0U) & 0xFF;
}

template <class T>
T field(const std::vector<std::uint8_t>& table, std::size_t offset) {
  T value{};
  REQUIRE(offset + sizeof(T) <= table.size());
  std::memcpy(&value, table.data() + offset, sizeof(T));
  return value;
}

bool has_text(const std::vector<std::uint8_t>& table, std::string_view text) {
  const std::vector<std::uint8_t> bytes(text.begin(), text.end());
  return std::ranges::search(table, bytes).begin() != table.end();
}

std::map<std::string, std::vector<std::uint8_t>> build(const AcpiConfig& config) {
  const LowMemory low;
  const auto rsdp = write_acpi_tables(low.memory(), config);
  REQUIRE(rsdp);
  return find_tables(low, *rsdp);
}

/// MADT entries of one type.
std::vector<std::vector<std::uint8_t>> madt_entries(const std::vector<std::uint8_t>& madt,
                                                    std::uint8_t type) {
  std::vector<std::vector<std::uint8_t>> out;
  for (std::size_t at = 44; at + 2 <= madt.size() && madt[at + 1] >= 2; at += madt[at + 1]) {
    if (madt[at] != type) continue;
    const auto begin = madt.begin() + static_cast<std::ptrdiff_t>(at);
    out.emplace_back(begin, begin + madt[at + 1]);
  }
  return out;
}

}  // namespace

TEST_CASE("every table sums up to zero, and the RSDP twice") {
  const LowMemory low;
  AcpiConfig config = acpi_config(7, 128 * kMiB);
  config.serial = config.rtc = true;
  const auto rsdp = write_acpi_tables(low.memory(), config);
  REQUIRE(rsdp);
  CHECK(rsdp->value == memory::kAcpiTablesStart);
  CHECK(sum(low.copy(rsdp->value, 20)) == 0);
  CHECK(sum(low.copy(rsdp->value, 36)) == 0);
  CHECK(has_text(low.copy(rsdp->value, 8), "RSD PTR "));
  const auto tables = find_tables(low, *rsdp);
  CHECK(tables.size() == 5);
  for (const auto& [signature, table] : tables) {
    CAPTURE(signature);
    CHECK(sum(table) == 0);
  }
}

TEST_CASE("nothing is written outside the reserved area") {
  const LowMemory low(memory::kHighMemoryStart + memory::kPageSize);
  REQUIRE(write_acpi_tables(low.memory(), acpi_config(255, 128 * kMiB)));
  const auto untouched = [&](std::uint64_t from, std::uint64_t to) {
    return std::all_of(low.bytes().begin() + static_cast<std::ptrdiff_t>(from),
                       low.bytes().begin() + static_cast<std::ptrdiff_t>(to),
                       [](std::byte byte) { return byte == std::byte{0xA5}; });
  };
  CHECK(untouched(0, memory::kAcpiTablesStart));
  CHECK(untouched(kVmGenIdAddress.value, low.bytes().size()));
}

TEST_CASE("tables that do not fit are refused, whichever of them it is") {
  // From an MADT that is too large down to one behind which nothing else has room.
  unsigned refused = 0;
  for (std::size_t vcpus = 7'700; vcpus < 8'100; ++vcpus) {
    const LowMemory low(memory::kHighMemoryStart + memory::kPageSize);
    AcpiConfig config = acpi_config(1, 128 * kMiB);
    config.apic_ids.assign(vcpus, 0x1234);  // 16 bytes each
    const auto result = write_acpi_tables(low.memory(), config);
    if (!result) {
      ++refused;
      CHECK(result.error().code == ErrorCode::BadRequest);
    }
    CHECK(low.at<std::uint64_t>(kVmGenIdAddress.value) == 0xA5A5'A5A5'A5A5'A5A5);
  }
  CHECK(refused > 0);
  CHECK(refused < 400);
}

TEST_CASE("a guest without RAM at the tables is refused") {
  const LowMemory low(memory::kAcpiTablesStart);
  CHECK(!write_acpi_tables(low.memory(), acpi_config(1, 128 * kMiB)));
}

TEST_CASE("a configuration that makes no sense is refused") {
  const LowMemory low;
  AcpiConfig no_cpu = acpi_config(1, 128 * kMiB);
  no_cpu.apic_ids.clear();
  CHECK(!write_acpi_tables(low.memory(), no_cpu));
  AcpiConfig no_ram = acpi_config(1, 128 * kMiB);
  no_ram.ram.clear();
  CHECK(!write_acpi_tables(low.memory(), no_ram));
  AcpiConfig bad_slot = acpi_config(1, 128 * kMiB);
  bad_slot.intx_slots = {3, 32};
  CHECK(!write_acpi_tables(low.memory(), bad_slot));
}

TEST_CASE("the FADT describes a hardware-reduced machine with reset, sleep and timer ports") {
  const auto fadt = build(acpi_config(1, 128 * kMiB)).at("FACP");
  CHECK(fadt.size() == 276);
  CHECK(fadt[8] == 6);
  CHECK((field<std::uint32_t>(fadt, 112) & (1U << 20)) != 0);  // HW_REDUCED_ACPI
  CHECK((field<std::uint32_t>(fadt, 112) & (1U << 10)) != 0);  // RESET_REG_SUP
  CHECK(field<std::uint32_t>(fadt, 40) == 0);                  // DSDT: X_DSDT is used
  CHECK(field<std::uint64_t>(fadt, 120) == memory::kAcpiResetPort);
  CHECK(fadt[128] == memory::kAcpiResetValue);
  CHECK(field<std::uint64_t>(fadt, 248) == memory::kAcpiSleepPort);
  CHECK(field<std::uint64_t>(fadt, 260) == memory::kAcpiSleepStatusPort);
  CHECK(field<std::uint64_t>(fadt, 212) == memory::kAcpiPmTimerPort);
}

TEST_CASE("the FADT says whether there is an RTC and a serial port") {
  AcpiConfig config = acpi_config(1, 128 * kMiB);
  CHECK(field<std::uint16_t>(build(config).at("FACP"), 109) == 0x24);  // no VGA, no RTC
  config.rtc = true;
  CHECK(field<std::uint16_t>(build(config).at("FACP"), 109) == 0x04);
  config.serial = true;
  CHECK(field<std::uint16_t>(build(config).at("FACP"), 109) == 0x05);
}

TEST_CASE("processors below 255 are local APICs, others x2APICs") {
  AcpiConfig config = acpi_config(1, 128 * kMiB);
  config.apic_ids = {0x03, 0xFE, 0xFF, 0x1234};
  const auto madt = build(config).at("APIC");
  const auto old_style = madt_entries(madt, 0);
  REQUIRE(old_style.size() == 2);
  CHECK(old_style[0] == std::vector<std::uint8_t>{0, 8, 0, 0x03, 1, 0, 0, 0});
  CHECK(old_style[1] == std::vector<std::uint8_t>{0, 8, 1, 0xFE, 1, 0, 0, 0});
  const auto new_style = madt_entries(madt, 9);
  REQUIRE(new_style.size() == 2);
  CHECK(field<std::uint32_t>(new_style[0], 4) == 0xFF);
  CHECK(field<std::uint32_t>(new_style[1], 4) == 0x1234);
  CHECK(field<std::uint32_t>(new_style[1], 12) == 3);  // UID
}

TEST_CASE("the MADT names the IOAPIC and the ISA interrupts in use") {
  AcpiConfig config = acpi_config(2, 128 * kMiB);
  const auto bare = build(config).at("APIC");
  const auto ioapics = madt_entries(bare, 1);
  REQUIRE(ioapics.size() == 1);
  CHECK(field<std::uint32_t>(ioapics[0], 4) == memory::kIoapicStart);
  CHECK(field<std::uint32_t>(ioapics[0], 8) == 0);
  CHECK(madt_entries(bare, 2).empty());
  config.serial = config.rtc = true;
  const auto overrides = madt_entries(build(config).at("APIC"), 2);
  REQUIRE(overrides.size() == 2);
  CHECK(overrides[0] == std::vector<std::uint8_t>{2, 10, 0, 4, 4, 0, 0, 0, 0, 0});
  CHECK(overrides[1] == std::vector<std::uint8_t>{2, 10, 0, 8, 8, 0, 0, 0, 0, 0});
}

TEST_CASE("255 vCPUs are all listed") {
  const auto madt = build(acpi_config(255, 128 * kMiB)).at("APIC");
  CHECK(madt_entries(madt, 0).size() == 255);  // ids 0..254
}

TEST_CASE("the MCFG points at ECAM for the root's buses") {
  AcpiConfig config = acpi_config(1, 128 * kMiB);
  config.pci_last_bus = 3;
  const auto mcfg = build(config).at("MCFG");
  CHECK(field<std::uint64_t>(mcfg, 44) == memory::kEcamStart);
  CHECK(mcfg[54] == 0);
  CHECK(mcfg[55] == 3);
}

TEST_CASE("the DSDT has only the devices that are there") {
  AcpiConfig config = acpi_config(1, 128 * kMiB);
  const auto bare = build(config).at("DSDT");
  CHECK(!has_text(bare, "COM1"));
  CHECK(!has_text(bare, "RTC_"));
  CHECK(!has_text(bare, "VGEN"));
  CHECK(!has_text(bare, "_PRT"));
  CHECK(has_text(bare, "PCI0"));
  CHECK(has_text(bare, "PWRB"));
  CHECK(has_text(bare, "ACPI0013"));
  config.serial = config.rtc = true;
  config.intx_slots = {2};
  config.vmgenid = devices::GuestAddress(0x1'2345'6780);
  const auto full = build(config).at("DSDT");
  CHECK(has_text(full, "COM1"));
  CHECK(has_text(full, "RTC_"));
  CHECK(has_text(full, "_PRT"));
  CHECK(has_text(full, "VM_Gen_Counter"));
  CHECK(has_text(full, std::string_view("\x0C\x80\x67\x45\x23\x01", 6)));  // low half, then One
}

TEST_CASE("the DSDT of a usual machine stays small, for each object costs boot time") {
  AcpiConfig config = acpi_config(4, 128 * kMiB);
  config.serial = config.rtc = true;
  config.vmgenid = devices::GuestAddress(0x9'F000);
  CHECK(build(config).at("DSDT").size() <= 600);
}

TEST_CASE("a machine with the PC's devices is not hardware-reduced and says where they are") {
  const LowMemory low;
  AcpiConfig config = acpi_config(1, 128 * kMiB);
  config.serial = config.rtc = config.pc = true;
  const auto rsdp = write_acpi_tables(low.memory(), config);
  REQUIRE(rsdp);
  const auto tables = find_tables(low, *rsdp);
  const auto& fadt = tables.at("FACP");
  CHECK((field<std::uint32_t>(fadt, 112) & (1U << 20 | 1U << 4)) == 0);  // HW_REDUCED_ACPI, PWR_BUTTON
  CHECK(field<std::uint16_t>(fadt, 109) == 0x07);                        // legacy devices, 8042, no VGA
  CHECK(field<std::uint16_t>(fadt, 46) == memory::kSciGsi);
  CHECK(field<std::uint32_t>(fadt, 48) == 0);  // no SMI command: ACPI is always on
  CHECK(field<std::uint32_t>(fadt, 56) == memory::kAcpiPm1Port);
  CHECK(field<std::uint64_t>(fadt, 152) == memory::kAcpiPm1Port);
  CHECK(field<std::uint32_t>(fadt, 64) == memory::kAcpiPm1Port + 4);
  CHECK(field<std::uint64_t>(fadt, 176) == memory::kAcpiPm1Port + 4);
  CHECK(field<std::uint64_t>(fadt, 248) == 0);  // no sleep control register
  const auto facs = field<std::uint32_t>(fadt, 36);
  CHECK(facs % 64 == 0);
  CHECK(has_text(low.copy(facs, 4), "FACS"));
  const auto& madt = tables.at("APIC");
  CHECK(field<std::uint32_t>(madt, 40) == 1);  // PCAT_COMPAT
  const auto overrides = madt_entries(madt, 2);
  REQUIRE(overrides.size() == 4);
  CHECK(overrides[0] == std::vector<std::uint8_t>{2, 10, 0, 0, 2, 0, 0, 0, 0, 0});
  CHECK(overrides[1] == std::vector<std::uint8_t>{2, 10, 0, 9, 9, 0, 0, 0, 0x0D, 0});
  const auto& dsdt = tables.at("DSDT");
  for (const char* name : {"PIC_", "TIMR", "SPKR", "KBD_"}) CHECK(has_text(dsdt, name));
  CHECK(!has_text(dsdt, "PWRB"));
}

TEST_CASE("INTA# of neighbouring slots goes to different lines of the eight") {
  CHECK(pci_intx_gsi(0, 0) == 16);
  CHECK(pci_intx_gsi(7, 0) == 23);
  CHECK(pci_intx_gsi(8, 0) == 16);
  CHECK(pci_intx_gsi(5, 3) == 16);
}
