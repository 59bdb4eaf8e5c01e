#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "daemon/memory/layout.h"
#include "daemon/x86/acpi/tables.h"
#include "daemon/x86/cpuid.h"
#include "devices/guest_memory.h"

namespace vmmd::x86::test {

/// The first MiB of a guest: all that ACPI tables need.
class LowMemory {
 public:
  explicit LowMemory(std::uint64_t size = memory::kHighMemoryStart)
      : bytes_(size, std::byte{0xA5}), memory_({{devices::GuestAddress(0), size, bytes_.data()}}) {}

  [[nodiscard]] const devices::GuestMemory& memory() const { return memory_; }
  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

  template <class T>
  [[nodiscard]] T at(std::uint64_t address) const {
    return memory_.load<T>(devices::GuestAddress(address)).value();
  }
  [[nodiscard]] std::vector<std::uint8_t> copy(std::uint64_t address, std::size_t size) const {
    std::vector<std::uint8_t> out(size);
    if (!memory_.read(devices::GuestAddress(address), std::as_writable_bytes(std::span(out)))) out.clear();
    return out;
  }
  [[nodiscard]] std::vector<std::uint8_t> table(std::uint64_t address) const {
    return copy(address, at<std::uint32_t>(address + 4));
  }

 private:
  std::vector<std::byte> bytes_;
  devices::GuestMemory memory_;
};

/// Finds the tables as a guest does, from the RSDP on, by signature.
inline std::map<std::string, std::vector<std::uint8_t>> find_tables(const LowMemory& low,
                                                                    devices::GuestAddress rsdp) {
  std::map<std::string, std::vector<std::uint8_t>> tables;
  const auto add = [&](std::uint64_t address) {
    auto table = low.table(address);
    const std::string signature(table.begin(), table.begin() + 4);
    tables.emplace(signature, std::move(table));
  };
  const auto xsdt = low.at<std::uint64_t>(rsdp.value + 24);
  add(xsdt);
  const std::size_t entries = (tables.at("XSDT").size() - 36) / 8;
  for (std::size_t i = 0; i < entries; ++i) add(low.at<std::uint64_t>(xsdt + 36 + 8 * i));
  std::uint64_t dsdt = 0;
  std::memcpy(&dsdt, tables.at("FACP").data() + 140, sizeof(dsdt));
  add(dsdt);
  return tables;
}

inline AcpiConfig acpi_config(unsigned vcpus, std::uint64_t ram_size) {
  AcpiConfig config;
  const CpuModel model{.vcpus = vcpus};
  for (unsigned i = 0; i < vcpus; ++i) config.apic_ids.push_back(apic_id_of(i, model));
  config.ram = memory::ram_layout(ram_size, 46).value();
  return config;
}

}  // namespace vmmd::x86::test
