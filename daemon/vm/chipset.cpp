#include "daemon/vm/chipset.h"

#include "daemon/memory/layout.h"

namespace vmmd::vm {

namespace {

devices::CmosRtc::Config cmos_config(const memory::GuestRam& ram) {
  devices::CmosRtc::Config config;
  for (const memory::RamRange& range : ram.layout()) {
    (range.start.value < memory::kHighRamStart ? config.ram_below_4g : config.ram_above_4g) += range.size;
  }
  return config;
}

}  // namespace

Chipset::Chipset(const kvm::VmFd& vm, const devices::GuestMemory& memory, const memory::GuestRam& ram,
                 devices::Clock& clock, devices::PowerSink& power, bool pc)
    : msi_(vm),
      routes_(vm),
      ioapic_(msi_, routes_),
      pc_(pc ? std::make_unique<PcDevices>(clock, ioapic_, power) : nullptr),
      event_device_(isa_line(memory::kGedGsi)),
      generation_id_(memory, event_device_),
      rtc_(clock, isa_line(memory::kRtcGsi), cmos_config(ram)),
      i8042_(power, pc ? &isa_line(memory::kKeyboardGsi) : nullptr),
      acpi_power_(power, {memory::kAcpiResetValue, memory::kAcpiS5SleepType}),
      pm_timer_(clock) {}

devices::InterruptLine& Chipset::isa_line(unsigned gsi) {
  return pc_ ? pc_->line(gsi) : ioapic_.line(gsi);
}

void Chipset::power_button() {
  if (pc_) {
    pc_->pm1().power_button();
  } else {
    event_device_.power_button();
  }
}

Result<std::unique_ptr<Chipset>> Chipset::build(const api::VmConfig& config, const kvm::VmFd& vm,
                                                const devices::GuestMemory& memory,
                                                const memory::GuestRam& ram, HostSide& host,
                                                devices::Clock& clock, devices::PowerSink& power) {
  std::unique_ptr<Chipset> chipset(new Chipset(vm, memory, ram, clock, power, config.platform.pc));
  VMMD_TRY(map_ports(chipset->ports_, chipset.get()));
  if (chipset->pc_) VMMD_TRY(PcDevices::map_ports(chipset->ports_, chipset->pc_.get()));
  VMMD_TRY(chipset->mmio_.map(
      {"ioapic", memory::kIoapicStart, devices::Ioapic::kSize, devices::Ioapic::kWidths, &chipset->ioapic_}));
  VMMD_TRY(chipset->mmio_.map({"pci-ecam", memory::kEcamStart, memory::kEcamSize,
                               devices::PciRoot::kEcamWidths, &chipset->pci_.ecam()}));
  VMMD_TRY(chipset->add_consoles(config, host));
  return chipset;
}

// The fixed ports. Without a chipset they are only claimed, for check().
Status Chipset::map_ports(devices::Bus& bus, Chipset* chipset) {
  using namespace devices;
  const auto map = [&](const char* name, std::uint64_t base, std::uint64_t length, Widths widths,
                       auto device) {
    return bus.map({name, base, length, widths, chipset != nullptr ? device(*chipset) : nullptr});
  };
  VMMD_TRY(map("rtc", memory::kRtcPort, CmosRtc::kSize, CmosRtc::kWidths,
               [](Chipset& c) -> BusDevice* { return &c.rtc_; }));
  VMMD_TRY(map("i8042-data", memory::kI8042Port, I8042::kPortSize, I8042::kWidths,
               [](Chipset& c) { return &c.i8042_.data(); }));
  VMMD_TRY(map("i8042-command", memory::kI8042Port + I8042::kCommandPortOffset, I8042::kPortSize,
               I8042::kWidths, [](Chipset& c) { return &c.i8042_.command(); }));
  VMMD_TRY(map("post-code", memory::kDebugPort, 1, kWidth1,
               [](Chipset& c) -> BusDevice* { return &c.post_code_; }));
  VMMD_TRY(map("acpi-power", memory::kAcpiResetPort, AcpiPower::kSize, AcpiPower::kWidths,
               [](Chipset& c) -> BusDevice* { return &c.acpi_power_; }));
  VMMD_TRY(map("acpi-pm-timer", memory::kAcpiPmTimerPort, AcpiPmTimer::kSize, AcpiPmTimer::kWidths,
               [](Chipset& c) -> BusDevice* { return &c.pm_timer_; }));
  VMMD_TRY(map("ged", memory::kGedPort, GenericEventDevice::kSize, GenericEventDevice::kWidths,
               [](Chipset& c) -> BusDevice* { return &c.event_device_; }));
  return map("pci-config", memory::kPciConfigPort, PciRoot::kPortsSize, PciRoot::kPortsWidths,
             [](Chipset& c) { return &c.pci_.ports(); });
}

Status Chipset::check(const api::VmConfig& config) {
  devices::Bus ports("port", 0x10000);
  VMMD_TRY(map_ports(ports, nullptr));
  if (config.platform.pc) VMMD_TRY(PcDevices::map_ports(ports, nullptr));
  if (config.serial.mode != api::ConsoleMode::Off) {
    VMMD_TRY(
        ports.map({"serial0", memory::kSerialPort, devices::Serial16550::kPorts, devices::kWidth1, nullptr}));
  }
  if (config.debug_console.mode == api::ConsoleMode::Off) return {};
  auto mapped = ports.map({"debug-console", config.debug_console.iobase, 1, devices::kWidth1, nullptr});
  if (!mapped) return wrap(std::move(mapped).error(), "/debug_console/iobase is taken");
  return {};
}

Status Chipset::add_consoles(const api::VmConfig& config, HostSide& host) {
  if (host.serial() != nullptr) {
    serial_ = std::make_unique<devices::Serial16550>("serial0", isa_line(memory::kSerialGsi), *host.serial());
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
  if (pc_) {
    for (devices::StateUnit* unit : pc_->units()) units.push_back(unit);
    units.push_back(&pc_->pic());
  }
  units.push_back(&ioapic_);
  return units;
}

}  // namespace vmmd::vm
