#pragma once

#include <array>
#include <vector>

#include "daemon/vm/ext_int.h"
#include "devices/bus.h"
#include "devices/chipset/acpi_pm1.h"
#include "devices/chipset/dma_page.h"
#include "devices/chipset/ioapic.h"
#include "devices/chipset/pic.h"
#include "devices/chipset/pit.h"
#include "devices/chipset/power.h"
#include "devices/chipset/speaker_port.h"
#include "devices/clock.h"

namespace vmmd::vm {

/// What `platform: {pc: true}` adds to the chipset, wired together: PICs, PIT, speaker port, DMA page
/// registers, PM1 registers; and the ISA interrupt lines, each of which goes to a PIC and to the IOAPIC, as
/// on a PC.
class PcDevices {
 public:
  PcDevices(devices::Clock& clock, devices::Ioapic& ioapic, devices::PowerSink& power);

  /// Maps its ports; without devices they are only claimed.
  static Status map_ports(devices::Bus& bus, PcDevices* pc);

  /// An ISA interrupt, below 16.
  [[nodiscard]] devices::InterruptLine& line(unsigned irq) { return lines_.at(irq); }
  [[nodiscard]] ExtInt& external_interrupts() { return ext_int_; }
  [[nodiscard]] devices::AcpiPm1& pm1() { return pm1_; }
  /// In the order of restoring; the PIC after everything that drives an ISA line.
  [[nodiscard]] std::vector<devices::StateUnit*> units() { return {&pit_, &speaker_, &dma_page_, &pm1_}; }
  [[nodiscard]] devices::Pic& pic() { return pic_; }

 private:
  class IsaLine final : public devices::InterruptLine {
   public:
    void set_level(bool high) override {
      pic->set_level(high);
      ioapic->set_level(high);
    }
    devices::InterruptLine* pic = nullptr;
    devices::InterruptLine* ioapic = nullptr;
  };

  ExtInt ext_int_;
  devices::Pic pic_{ext_int_};
  std::array<IsaLine, devices::Pic::kInputs> lines_;
  devices::Pit pit_;
  devices::SpeakerPort speaker_;
  devices::DmaPage dma_page_;
  devices::AcpiPm1 pm1_;
};

}  // namespace vmmd::vm
