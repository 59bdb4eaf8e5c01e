#include "daemon/vm/pc_devices.h"

#include "daemon/memory/layout.h"

namespace vmmd::vm {

PcDevices::PcDevices(devices::Clock& clock, devices::Ioapic& ioapic, devices::PowerSink& power)
    : pit_(clock, lines_[memory::kPitIrq]),
      speaker_(clock, pit_),
      pm1_(lines_[memory::kSciGsi], power, memory::kAcpiS5SleepType) {
  ext_int_.set_pic(pic_);
  for (unsigned irq = 0; irq < lines_.size(); ++irq) {
    lines_.at(irq).pic = &pic_.line(irq);
    lines_.at(irq).ioapic = &ioapic.line(irq == memory::kPitIrq ? memory::kPitGsi : irq);
  }
}

Status PcDevices::map_ports(devices::Bus& bus, PcDevices* pc) {
  using namespace devices;
  const auto map = [&](const char* name, std::uint64_t base, std::uint64_t length, Widths widths,
                       auto device) {
    return bus.map({name, base, length, widths, pc != nullptr ? device(*pc) : nullptr});
  };
  VMMD_TRY(map("pic-master", memory::kPicMasterPort, Pic::kPorts, Pic::kWidths,
               [](PcDevices& p) { return &p.pic_.master(); }));
  VMMD_TRY(map("pic-slave", memory::kPicSlavePort, Pic::kPorts, Pic::kWidths,
               [](PcDevices& p) { return &p.pic_.slave(); }));
  VMMD_TRY(map("pic-elcr", memory::kPicElcrPort, Pic::kPorts, Pic::kWidths,
               [](PcDevices& p) { return &p.pic_.elcr(); }));
  VMMD_TRY(map("pit", memory::kPitPort, Pit::kSize, Pit::kWidths,
               [](PcDevices& p) -> BusDevice* { return &p.pit_; }));
  VMMD_TRY(map("speaker", memory::kSpeakerPort, SpeakerPort::kSize, SpeakerPort::kWidths,
               [](PcDevices& p) -> BusDevice* { return &p.speaker_; }));
  VMMD_TRY(map("dma-page", memory::kDmaPagePort, DmaPage::kSize, DmaPage::kWidths,
               [](PcDevices& p) -> BusDevice* { return &p.dma_page_; }));
  return map("acpi-pm1", memory::kAcpiPm1Port, AcpiPm1::kSize, AcpiPm1::kWidths,
             [](PcDevices& p) -> BusDevice* { return &p.pm1_; });
}

}  // namespace vmmd::vm
