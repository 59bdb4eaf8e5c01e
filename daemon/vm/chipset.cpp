#include "daemon/vm/chipset.h"

#include "daemon/memory/layout.h"
#include "daemon/x86/acpi/tables.h"

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

Chipset::Chipset(const Surroundings& around, bool pc)
    : msi_(around.vm),
      routes_(around.vm),
      io_events_(around.vm),
      ioapic_(msi_, routes_),
      pc_(pc ? std::make_unique<PcDevices>(around.clock, ioapic_, around.power) : nullptr),
      event_device_(isa_line(memory::kGedGsi)),
      generation_id_(around.memory, event_device_),
      rtc_(around.clock, isa_line(memory::kRtcGsi), cmos_config(around.ram)),
      i8042_(around.power, pc ? &isa_line(memory::kKeyboardGsi) : nullptr),
      acpi_power_(around.power, {memory::kAcpiResetValue, memory::kAcpiS5SleepType}),
      pm_timer_(around.clock) {
  for (unsigned i = 0; i < pci_lines_.size(); ++i) {
    pci_lines_.at(i) = std::make_unique<devices::SharedInterruptLine>(ioapic_.line(memory::kFirstPciGsi + i));
  }
}

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

Result<std::unique_ptr<Chipset>> Chipset::build(const api::VmConfig& config, const Surroundings& around) {
  std::unique_ptr<Chipset> chipset(new Chipset(around, config.platform.pc));
  VMMD_TRY(map_ports(chipset->ports_, chipset.get()));
  if (chipset->pc_) VMMD_TRY(PcDevices::map_ports(chipset->ports_, chipset->pc_.get()));
  VMMD_TRY(chipset->mmio_.map(
      {"ioapic", memory::kIoapicStart, devices::Ioapic::kSize, devices::Ioapic::kWidths, &chipset->ioapic_}));
  VMMD_TRY(chipset->mmio_.map({"pci-ecam", memory::kEcamStart, memory::kEcamSize,
                               devices::PciRoot::kEcamWidths, &chipset->pci_.ecam()}));
  VMMD_TRY(chipset->add_consoles(config, around.host));
  VMMD_TRY(chipset->add_virtio(config, around));
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
  return map_consoles(ports, config, nullptr, nullptr);
}

// The ports of the consoles that are not off.
Status Chipset::map_consoles(devices::Bus& ports, const api::VmConfig& config, devices::BusDevice* serial,
                             devices::BusDevice* debug) {
  using devices::kWidth1, devices::Serial16550;
  if (config.serial.mode != api::ConsoleMode::Off) {
    VMMD_TRY(ports.map({"serial0", memory::kSerialPort, Serial16550::kPorts, kWidth1, serial}));
  }
  if (config.debug_console.mode == api::ConsoleMode::Off) return {};
  auto mapped = ports.map({"debug-console", config.debug_console.iobase, 1, kWidth1, debug});
  if (!mapped) return wrap(std::move(mapped).error(), "/debug_console/iobase is taken");
  return {};
}

Status Chipset::add_consoles(const api::VmConfig& config, HostSide& host) {
  if (host.serial() != nullptr) {
    serial_ = std::make_unique<devices::Serial16550>("serial0", isa_line(memory::kSerialGsi), *host.serial());
  }
  if (host.debug_console() != nullptr) {
    debug_console_ = std::make_unique<devices::DebugConsole>(*host.debug_console());
  }
  return map_consoles(ports_, config, serial_.get(), debug_console_.get());
}

Status Chipset::add_virtio(const api::VmConfig& config, const Surroundings& around) {
  const memory::PciWindows windows =
      memory::pci_windows(around.ram.layout(), config.cpus.max_phys_bits, around.host.memory_end());
  devices::VirtioPci::Glue glue{.memory = &around.memory,
                                .msi = &msi_,
                                .line = nullptr,
                                .mmio = &mmio_,
                                .io_events = &io_events_,
                                .windows = {{windows.low.start, windows.low.size}},
                                .bar_address = 0,
                                .events = &around.events};
  if (windows.high.size != 0) glue.windows.push_back({windows.high.start, windows.high.size});
  for (const auto& [slot, loop, end] : around.host.devices()) {
    devices::EventLoop& share = virtio_.share(slot, loop ? *loop : around.host.loop());
    const DeviceGlue device_glue{around.memory, around.clock,   share,
                                 around.events, around.reclaim, around.power};
    VMMD_ASSIGN(auto model, end->make_device(device_glue));
    glue.line = pci_lines_.at(x86::pci_intx_gsi(slot, 0) - memory::kFirstPciGsi).get();
    glue.bar_address = glue.windows.back().base + slot * devices::VirtioPci::kBarSize;
    VMMD_TRY(virtio_.add(slot, std::move(model), glue));
  }
  return {};
}

std::vector<devices::StateUnit*> Chipset::units() {
  std::vector<devices::StateUnit*> units{&pci_,       &i8042_,        &acpi_power_,    &pm_timer_,
                                         &post_code_, &event_device_, &generation_id_, &rtc_};
  if (serial_) units.push_back(serial_.get());
  for (devices::StateUnit* unit : virtio_.units()) units.push_back(unit);
  if (pc_) {
    for (devices::StateUnit* unit : pc_->units()) units.push_back(unit);
    units.push_back(&pc_->pic());
  }
  units.push_back(&ioapic_);
  return units;
}

}  // namespace vmmd::vm
