#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "devices/bus.h"
#include "devices/interrupt.h"
#include "devices/state_unit.h"

namespace vmmd::devices {

/// Told which message each pin sends, so that KVM's GSI routing is in step with the redirection table. KVM
/// needs the routes even though we send the messages ourselves: from the level-triggered ones it learns of
/// which vectors an EOI must exit to user space, and irqfds on a pin follow its route.
///
/// A pin without a route (nullopt) is masked or programmed to something that cannot be delivered. A masked
/// pin whose interrupt the guest has not ended yet keeps its route until that EOI, which would not exit
/// otherwise. At power-on no pin has a route. Called with the IOAPIC's lock held.
class IoapicRoutes {
 public:
  virtual ~IoapicRoutes() = default;
  virtual void set_route(unsigned pin, std::optional<MsiMessage> message) = 0;
  /// All pins at once (after restore and reset): one KVM_SET_GSI_ROUTING. `messages[pin]`, one per pin.
  virtual void set_routes(std::span<const std::optional<MsiMessage>> messages) = 0;
};

/// Intel 82093AA I/O APIC in user space, for KVM's split irqchip (the LAPICs live in KVM).
///
/// Emulated: 24 pins, edge and level, remote IRR, mask, physical and logical destinations, fixed, lowest
/// priority, SMI, NMI and INIT delivery. Delivery is instant: delivery status always reads idle. A rising
/// edge on a masked pin is lost, a level is delivered at unmask.
/// The version register says 0x20, which promises the EOI register (0x40): KVM's LAPIC advertises directed
/// EOI when the IOAPIC is in user space, and a guest that uses it ends interrupts by that register only.
/// The EOIs that a LAPIC broadcasts arrive through end_of_interrupt(); both may come for one interrupt.
/// Not emulated: ExtINT (there is no 8259 here), extended destination ids, arbitration. Polarity is stored
/// but inverts nothing: an InterruptLine carries "asserted", whatever the wire would look like.
///
/// Locks: device lock, then the IOAPIC's, then those of the sink and the routes. Resample listeners are
/// called without the IOAPIC's lock.
class Ioapic final : public BusDevice, public StateUnit {
 public:
  static constexpr unsigned kPins = 24;
  static constexpr std::uint64_t kSize = 0x1000;  // bytes of MMIO
  static constexpr Widths kWidths = kWidth1 | kWidth4;

  Ioapic(MsiSink& sink, IoapicRoutes& routes);

  /// The input pin of a GSI below kPins. Lives as long as the IOAPIC; thread-safe.
  [[nodiscard]] InterruptLine& line(unsigned gsi) { return lines_.at(gsi); }

  /// KVM_EXIT_IOAPIC_EOI: a LAPIC ended `vector`. Re-delivers what is still asserted, after its resample
  /// listeners had the chance to lower the line.
  void end_of_interrupt(std::uint8_t vector);

  /// `listener` is told of every EOI of `pin`. remove returns when no call is running any more; hold no lock
  /// that a listener takes.
  void add_resample_listener(unsigned pin, ResampleListener& listener);
  void remove_resample_listener(unsigned pin, ResampleListener& listener);

  std::uint64_t read(std::uint64_t offset, unsigned width) override;
  void write(std::uint64_t offset, unsigned width, std::uint64_t value) override;

  [[nodiscard]] std::string_view unit_name() const override { return "ioapic"; }
  [[nodiscard]] Result<UnitState> save() const override;
  /// Restore after the vCPUs: an interrupt that was asserted but not sent is sent now, to their LAPICs.
  Status restore(const UnitState& state) override;
  void reset() override;
  [[nodiscard]] std::map<std::string, std::int64_t> counters() const override;

 private:
  class Line final : public InterruptLine {
   public:
    void set_level(bool high) override { owner->set_pin(pin, high); }
    Ioapic* owner = nullptr;
    unsigned pin = 0;
  };
  struct Pin {
    std::uint64_t entry;  // redirection table entry, remote IRR included
    bool asserted;        // level of the line
  };
  struct State {
    State();
    std::uint8_t select = 0;  // IOREGSEL
    std::uint8_t id = 0;      // 4 bits
    std::array<Pin, kPins> pins{};
  };
  using Routes = std::array<std::optional<MsiMessage>, kPins>;

  void set_pin(unsigned pin, bool high);
  [[nodiscard]] std::uint32_t read_register() const;
  void write_register(std::uint32_t value);
  void write_entry(unsigned pin, std::uint64_t entry);
  /// Sends a level-triggered interrupt that is asserted, unmasked and not in service.
  void service_level(unsigned pin);
  void update_route(unsigned pin);
  /// Hands all routes to IoapicRoutes in one batch.
  void push_routes();

  MsiSink& sink_;
  IoapicRoutes& routes_sink_;
  std::array<Line, kPins> lines_;

  std::mutex listeners_mutex_;  // taken before every other lock here
  std::array<std::vector<ResampleListener*>, kPins> listeners_;

  mutable std::mutex mutex_;
  State state_;
  Routes routes_;  // as the routes sink knows them: follows from state_
  std::int64_t delivered_ = 0;
  std::int64_t ended_ = 0;
};

}  // namespace vmmd::devices
