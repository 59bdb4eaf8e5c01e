// Writes the ACPI tables of several machines into DIR/MACHINE/TABLE.dat, for iasl to judge.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <vector>

#include "tests/unit/x86/acpi_fixture.h"

namespace {

using vmmd::x86::AcpiConfig;
using namespace vmmd::x86::test;

bool dump(const std::filesystem::path& directory, const AcpiConfig& config) {
  const LowMemory low;
  const auto rsdp = vmmd::x86::write_acpi_tables(low.memory(), config);
  if (!rsdp) {
    std::fprintf(stderr, "%s: %s\n", directory.c_str(), rsdp.error().to_string().c_str());
    return false;
  }
  std::filesystem::create_directories(directory);
  for (const auto& [signature, table] : find_tables(low, *rsdp)) {
    std::ofstream out(directory / (signature + ".dat"), std::ios::binary);
    for (const std::uint8_t byte : table) out.put(static_cast<char>(byte));
    if (!out.flush()) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::filesystem::path directory = argv[1];
  constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

  const AcpiConfig small = acpi_config(1, 64 * kMiB);
  AcpiConfig usual = acpi_config(4, 128 * kMiB);
  usual.serial = true;
  usual.rtc = true;
  usual.vmgenid = vmmd::x86::kVmGenIdAddress;
  AcpiConfig big = acpi_config(255, 5120 * kMiB);
  big.serial = true;
  big.rtc = true;
  big.pci_last_bus = 255;
  big.vmgenid = vmmd::devices::GuestAddress(0x1'3FFF'F000);
  for (unsigned slot = 0; slot < 32; ++slot) big.intx_slots.push_back(slot);
  AcpiConfig sparse = acpi_config(3, 4096 * kMiB);
  sparse.rtc = true;
  sparse.apic_ids = {0, 254, 0x1234};
  sparse.intx_slots = {1, 31};
  AcpiConfig narrow = acpi_config(1, 64 * kMiB);
  narrow.max_phys_bits = 32;  // no room for 64-bit BARs

  AcpiConfig pc = usual;
  pc.pc = true;

  return dump(directory / "pc", pc) && dump(directory / "small", small) && dump(directory / "usual", usual) &&
                 dump(directory / "big", big) && dump(directory / "sparse", sparse) &&
                 dump(directory / "narrow", narrow)
             ? 0
             : 1;
}
