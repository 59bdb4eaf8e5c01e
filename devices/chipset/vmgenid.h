#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "devices/chipset/generic_event_device.h"
#include "devices/guest_address.h"
#include "devices/guest_memory.h"
#include "devices/state_unit.h"

namespace vmmd::devices {

/// Virtual Machine Generation ID (Microsoft, "Virtual Machine Generation ID", 2012): 16 random bytes in
/// guest memory that change whenever the machine is copied or put back in time, so that the guest reseeds its
/// random generators. The DSDT's \_SB.VGEN (_CID "VM_Gen_Counter") names the address in its ADDR package.
///
/// The id lies 8-byte aligned in memory that the guest's memory map reserves; nothing else of the guest may
/// share its page. It has no registers: it is written to RAM, then announced by the generic event device.
class VmGenId final : public StateUnit {
 public:
  using Id = std::array<std::uint8_t, 16>;

  VmGenId(const GuestMemory& memory, GenericEventDevice& ged);

  /// At boot: chooses the place and writes the first id, unannounced. BadRequest if the place is not aligned
  /// or not RAM.
  Status place(GuestAddress address, const Id& id);
  /// After a restore: replaces the id and tells the guest. WrongState if never placed.
  Status set_id(const Id& id);
  [[nodiscard]] Id id() const;

  [[nodiscard]] std::string_view unit_name() const override { return "vmgenid"; }
  [[nodiscard]] Result<UnitState> save() const override;
  /// Takes id and address over; guest memory already holds them.
  Status restore(const UnitState& state) override;
  /// Forgets the place: a machine that boots again places it again.
  void reset() override;

 private:
  struct State {
    Id id{};
    GuestAddress address;  // 0: not placed
  };
  [[nodiscard]] Status check_place(GuestAddress address) const;

  const GuestMemory& memory_;
  GenericEventDevice& ged_;
  mutable std::mutex mutex_;
  State state_;
};

}  // namespace vmmd::devices
