#pragma once

#include <array>
#include <memory>
#include <vector>

#include "api/config.h"
#include "base/result.h"
#include "daemon/kvm/vm_fd.h"
#include "daemon/memory/guest_ram.h"
#include "daemon/vm/host_side.h"
#include "daemon/vm/irq.h"
#include "daemon/vm/pc_devices.h"
#include "daemon/vm/virtio_devices.h"
#include "devices/bus.h"
#include "devices/chipset/acpi_pm_timer.h"
#include "devices/chipset/acpi_power.h"
#include "devices/chipset/cmos_rtc.h"
#include "devices/chipset/debug_port.h"
#include "devices/chipset/generic_event_device.h"
#include "devices/chipset/i8042.h"
#include "devices/chipset/ioapic.h"
#include "devices/chipset/power.h"
#include "devices/chipset/serial16550.h"
#include "devices/chipset/vmgenid.h"
#include "devices/device_events.h"
#include "devices/memory_reclaim.h"
#include "devices/pci/intx.h"
#include "devices/pci/pci_root.h"

namespace vmmd::vm {

/// The machine's devices and its two buses, built from configuration and wired together. This is the one
/// place that knows which device sits where: a new device is a member, a line in map_devices() or in build(),
/// and an entry in units().
///
/// Members are in order of construction; destruction runs backwards, so a device goes before what it is wired
/// to. vCPUs and the device loop's work use them: the former are gone before, the host side outlives this
/// object.
class Chipset {
 public:
  /// What it is wired to; all of it outlives the chipset.
  struct Surroundings {
    const kvm::VmFd& vm;
    const devices::GuestMemory& memory;
    const memory::GuestRam& ram;
    HostSide& host;
    devices::Clock& clock;
    devices::PowerSink& power;
    devices::DeviceEvents& events;
    devices::MemoryReclaim& reclaim;
  };
  static Result<std::unique_ptr<Chipset>> build(const api::VmConfig& config, const Surroundings& around);
  /// Whether the devices that `config` asks for find room on the buses: at vm.create, before any exists.
  static Status check(const api::VmConfig& config);
  Chipset(const Chipset&) = delete;
  Chipset& operator=(const Chipset&) = delete;

  [[nodiscard]] const devices::Bus& ports() const { return ports_; }
  [[nodiscard]] const devices::Bus& mmio() const { return mmio_; }
  [[nodiscard]] devices::Ioapic& ioapic() { return ioapic_; }
  [[nodiscard]] devices::GenericEventDevice& event_device() { return event_device_; }
  [[nodiscard]] devices::CmosRtc& rtc() { return rtc_; }
  [[nodiscard]] VirtioDevices& virtio() { return virtio_; }
  [[nodiscard]] devices::VmGenId& generation_id() { return generation_id_; }
  /// The power button of the machine, wherever ACPI has it.
  void power_button();
  /// INTR of the PICs; nullptr on a machine without them.
  [[nodiscard]] ExtInt* external_interrupts() { return pc_ ? &pc_->external_interrupts() : nullptr; }
  [[nodiscard]] bool has_pc_devices() const { return pc_ != nullptr; }
  [[nodiscard]] bool has_serial() const { return serial_ != nullptr; }

  /// Everything with state. Restored in this order: the IOAPIC comes last, because it re-sends what is
  /// asserted.
  [[nodiscard]] std::vector<devices::StateUnit*> units();

 private:
  Chipset(const Surroundings& around, bool pc);
  [[nodiscard]] devices::InterruptLine& isa_line(unsigned gsi);
  static Status map_ports(devices::Bus& bus, Chipset* chipset);
  static Status map_consoles(devices::Bus& ports, const api::VmConfig& config, devices::BusDevice* serial,
                             devices::BusDevice* debug);
  Status add_consoles(const api::VmConfig& config, HostSide& host);
  Status add_virtio(const api::VmConfig& config, const Surroundings& around);

  devices::Bus ports_{"port", 0x10000};
  devices::Bus mmio_{"mmio"};
  KvmMsiSink msi_;
  KvmRoutes routes_;
  KvmIoEvents io_events_;
  devices::Ioapic ioapic_;
  std::unique_ptr<PcDevices> pc_;  // or nullptr
  devices::GenericEventDevice event_device_;
  devices::VmGenId generation_id_;
  devices::CmosRtc rtc_;
  devices::I8042 i8042_;
  devices::AcpiPower acpi_power_;
  devices::AcpiPmTimer pm_timer_;
  devices::PostCodePort post_code_;
  devices::PciRoot pci_;
  /// INTA to INTH of the root, which go to the IOAPIC's pins from memory::kFirstPciGsi on.
  std::array<std::unique_ptr<devices::SharedInterruptLine>, memory::kPciLines> pci_lines_;
  std::unique_ptr<devices::Serial16550> serial_;
  std::unique_ptr<devices::DebugConsole> debug_console_;
  VirtioDevices virtio_{pci_};
};

}  // namespace vmmd::vm
