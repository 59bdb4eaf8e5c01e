#include "daemon/vm/chipset.h"

#include "daemon/memory/layout.h"

namespace vmmd::vm {

namespace {

using devices::BusRegion;

devices::CmosRtc::Config cmos_config(const memory::GuestRam& ram) {
  devices::CmosRtc::Config config;
  for (const memory::RamRange& range : ram.layout()) {
    (range.start.value < memory::kHighRamStart ? config.ram_below_4g : config.ram_above_4g) += range.size;
  }
  return config;
}

}  // namespace

Chipset::Chipset(const kvm::VmFd& vm, const devices::GuestMemory& memory, const memory::GuestRam& ram,
                 devices::Clock& clock, devices::PowerSink& power)
    : msi_(vm),
      routes_(vm),
      ioapic_(msi_, routes_),
      event_device_(ioapic_.line(memory::kGedGsi)),
      generation_id_(memory, event_device_),
      rtc_(clock, ioapic_.line(memory::kRtcGsi), cmos_config(ram)),
      i8042_(power),
      acpi_power_(power, {memory::kAcpiResetValue, memory::kAcpiS5SleepType}),
      pm_timer_(clock) {}

Result<std::unique_ptr<Chipset>> Chipset::build(const api::VmConfig& config, const kvm::VmFd& vm,
                                                const devices::GuestMemory& memory,
                                                const memory::GuestRam& ram, HostSide& host,
                                                devices::Clock& clock, devices::PowerSink& power) {
  std::unique_ptr<Chipset> chipset(new Chipset(vm, memory, ram, clock, power));
  VMMD_TRY(chipset->map_devices());
  VMMD_TRY(chipset->add_consoles(config, host));
  return chipset;
}

Status Chipset::map_devices() {
  using namespace devices;
  const BusRegion ports[] = {
      {"rtc", memory::kRtcPort, CmosRtc::kSize, CmosRtc::kWidths, &rtc_},
      {"i8042-data", memory::kI8042Port, I8042::kPortSize, I8042::kWidths, &i8042_.data()},
      {"i8042-command", memory::kI8042Port + I8042::kCommandPortOffset, I8042::kPortSize, I8042::kWidths,
       &i8042_.command()},
      {"post-code", memory::kDebugPort, 1, kWidth1, &post_code_},
      {"acpi-power", memory::kAcpiResetPort, AcpiPower::kSize, AcpiPower::kWidths, &acpi_power_},
      {"acpi-pm-timer", memory::kAcpiPmTimerPort, AcpiPmTimer::kSize, AcpiPmTimer::kWidths, &pm_timer_},
      {"ged", memory::kGedPort, GenericEventDevice::kSize, GenericEventDevice::kWidths, &event_device_},
      {"pci-config", memory::kPciConfigPort, PciRoot::kPortsSize, PciRoot::kPortsWidths, &pci_.ports()},
  };
  for (const BusRegion& region : ports) VMMD_TRY(ports_.map(region));
  VMMD_TRY(mmio_.map({"ioapic", memory::kIoapicStart, Ioapic::kSize, Ioapic::kWidths, &ioapic_}));
  return mmio_.map({"pci-ecam", memory::kEcamStart, memory::kEcamSize, PciRoot::kEcamWidths, &pci_.ecam()});
}

Status Chipset::add_consoles(const api::VmConfig& config, HostSide& host) {
  if (host.serial() != nullptr) {
    serial_ =
        std::make_unique<devices::Serial16550>("serial0", ioapic_.line(memory::kSerialGsi), *host.serial());
    VMMD_TRY(ports_.map(
        {"serial0", memory::kSerialPort, devices::Serial16550::kPorts, devices::kWidth1, serial_.get()}));
  }
  if (host.debug_console() != nullptr) {
    debug_console_ = std::make_unique<devices::DebugConsole>(*host.debug_console());
    VMMD_TRY(ports_.map(
        {"debug-console", config.debug_console.iobase, 1, devices::kWidth1, debug_console_.get()}));
  }
  return {};
}

std::vector<devices::StateUnit*> Chipset::units() {
  std::vector<devices::StateUnit*> units{&pci_,       &i8042_,        &acpi_power_,    &pm_timer_,
                                         &post_code_, &event_device_, &generation_id_, &rtc_};
  if (serial_) units.push_back(serial_.get());
  units.push_back(&ioapic_);
  return units;
}

}  // namespace vmmd::vm
