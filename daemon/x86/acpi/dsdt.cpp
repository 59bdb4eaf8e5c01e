#include "daemon/x86/acpi/dsdt.h"

#include <algorithm>

#include "devices/chipset/generic_event_device.h"

namespace vmmd::x86 {
namespace {

using aml::Bytes;

constexpr std::uint64_t kNotifyStatusChange = 0x80;  // also "button pressed" of PNP0C0C

Bytes serial_device() {
  return aml::device(
      "COM1", {aml::name("_HID", aml::eisa_id("PNP0501")), aml::name("_UID", aml::integer(1)),
               aml::name("_CRS", aml::resources({aml::io(memory::kSerialPort, 8),
                                                 aml::interrupt(memory::kSerialGsi, aml::Trigger::Edge)}))});
}

Bytes rtc_device() {
  return aml::device(
      "RTC", {aml::name("_HID", aml::eisa_id("PNP0B00")),
              aml::name("_CRS", aml::resources({aml::io(memory::kRtcPort, 2),
                                                aml::interrupt(memory::kRtcGsi, aml::Trigger::Edge)}))});
}

Bytes event_bit(devices::GedEvent event) {
  return aml::integer(static_cast<std::uint32_t>(event));
}

/// The Generic Event Device (ACPI 6.4, 5.6.9): how a hardware-reduced machine tells the guest anything.
Bytes event_device(const AcpiConfig& config) {
  std::vector<Bytes> handler{aml::store(aml::path("ESEL"), aml::local(0))};
  if (!config.pc) {
    handler.push_back(aml::if_then(aml::bit_and(aml::local(0), event_bit(devices::GedEvent::PowerButton)),
                                   {aml::notify("\\_SB.PWRB", kNotifyStatusChange)}));
  }
  if (config.vmgenid) {
    handler.push_back(aml::if_then(aml::bit_and(aml::local(0), event_bit(devices::GedEvent::VmGenerationId)),
                                   {aml::notify("\\_SB.VGEN", kNotifyStatusChange)}));
  }
  // Serialized: iasl asks it of a method that reads a register with side effects. One read of four bytes,
  // which takes the events; the device clears them.
  return aml::device(
      "GED", {aml::name("_HID", aml::string("ACPI0013")),
              aml::name("_CRS", aml::resources({aml::interrupt(memory::kGedGsi, aml::Trigger::Edge)})),
              aml::operation_region("ESRG", aml::Space::SystemIo, memory::kGedPort, 4),
              aml::field("ESRG", aml::Access::DWord, {{.name = "ESEL", .bits = 32}}),
              aml::method("_EVT", 1, aml::Serialized::Yes, {aml::concat(handler)})});
}

Bytes legacy_device(std::string_view name, std::string_view id, std::initializer_list<Bytes> resources) {
  return aml::device(name,
                     {aml::name("_HID", aml::eisa_id(id)), aml::name("_CRS", aml::resources(resources))});
}

/// What `platform: {pc: true}` adds. The power button is then a fixed register, not a device.
void add_pc_devices(std::vector<Bytes>& system) {
  system.push_back(legacy_device("PIC", "PNP0000",
                                 {aml::io(memory::kPicMasterPort, 2), aml::io(memory::kPicSlavePort, 2),
                                  aml::io(memory::kPicElcrPort, 2), aml::irq(2)}));
  system.push_back(
      legacy_device("TIMR", "PNP0100", {aml::io(memory::kPitPort, 4), aml::irq(memory::kPitIrq)}));
  system.push_back(legacy_device("SPKR", "PNP0800", {aml::io(memory::kSpeakerPort, 1)}));
  system.push_back(legacy_device(
      "KBD", "PNP0303",
      {aml::io(memory::kI8042Port, 1), aml::io(memory::kI8042Port + 4, 1), aml::irq(memory::kKeyboardGsi)}));
}

Bytes power_button() {
  return aml::device("PWRB", {aml::name("_HID", aml::eisa_id("PNP0C0C"))});
}

/// "Virtual Machine Generation ID" (Microsoft, 2012): drivers bind to the _CID, and ADDR gives the address in
/// two halves. The _HID is ours alone; ACPI wants four hexadecimal digits at its end.
Bytes generation_device(devices::GuestAddress id) {
  return aml::device(
      "VGEN", {aml::name("_HID", aml::string("VMMD0001")), aml::name("_CID", aml::string("VM_Gen_Counter")),
               aml::name("_DDN", aml::string("VM_Gen_Counter")),
               aml::name("ADDR", aml::package(
                                     {aml::integer(id.value & 0xFFFF'FFFF), aml::integer(id.value >> 32)}))});
}

/// Linux believes the MCFG only if ECAM is also reserved as a motherboard resource.
Bytes motherboard() {
  return aml::device("MBRD", {aml::name("_HID", aml::eisa_id("PNP0C02")),
                              aml::name("_CRS", aml::resources({aml::memory32_fixed(
                                                    static_cast<std::uint32_t>(memory::kEcamStart),
                                                    static_cast<std::uint32_t>(memory::kEcamSize))}))});
}

/// One entry for INTA# of each slot that has an interrupt; our devices have one function and one pin. A
/// method, not a name: the interpreter then skips the packages until a driver asks for an interrupt pin,
/// which with MSI-X is never.
Bytes interrupt_routes(const std::vector<unsigned>& slots) {
  constexpr std::uint64_t kAllFunctions = 0xFFFF;
  std::vector<Bytes> entries;
  entries.reserve(slots.size());
  for (const unsigned slot : slots) {
    entries.push_back(aml::package({aml::integer(std::uint64_t{slot} << 16 | kAllFunctions), aml::integer(0),
                                    aml::integer(0), aml::integer(pci_intx_gsi(slot, 0))}));
  }
  return aml::method("_PRT", 0, aml::Serialized::No, {aml::give_back(aml::package(entries))});
}

Bytes pci_root(const AcpiConfig& config) {
  constexpr std::uint16_t kConfigPorts = memory::kPciConfigPort;  // eight ports: not for BARs
  const auto [low, high] = memory::pci_windows(config.ram, config.max_phys_bits, config.memory_end);
  std::vector<Bytes> windows{aml::bus_range(0, config.pci_last_bus), aml::io_window(0, kConfigPorts - 1),
                             aml::io_window(kConfigPorts + 8, 0xFFFF),
                             aml::memory_window32(static_cast<std::uint32_t>(low.start),
                                                  static_cast<std::uint32_t>(low.start + low.size - 1))};
  if (high.size != 0) windows.push_back(aml::memory_window64(high.start, high.start + high.size - 1));

  std::vector<Bytes> body{aml::name("_HID", aml::eisa_id("PNP0A08")),
                          aml::name("_CID", aml::eisa_id("PNP0A03")), aml::name("_UID", aml::integer(0)),
                          aml::name("_CRS", aml::resources(windows))};
  if (!config.intx_slots.empty()) body.push_back(interrupt_routes(config.intx_slots));
  return aml::device("PCI0", body);
}

}  // namespace

aml::Bytes dsdt_body(const AcpiConfig& config) {
  std::vector<Bytes> system{motherboard(), pci_root(config)};
  if (!config.pc) system.push_back(power_button());
  system.push_back(event_device(config));
  if (config.pc) add_pc_devices(system);
  if (config.serial) system.push_back(serial_device());
  if (config.rtc) system.push_back(rtc_device());
  if (config.vmgenid) system.push_back(generation_device(*config.vmgenid));
  const Bytes s5 = aml::integer(memory::kAcpiS5SleepType);
  return aml::concat({aml::name("\\_S5", aml::package({s5, aml::integer(0)})), aml::scope("\\_SB", system)});
}

}  // namespace vmmd::x86
