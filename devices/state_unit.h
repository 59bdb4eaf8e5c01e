#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include <google/protobuf/message_lite.h>

#include "base/result.h"

namespace vmmd::devices {

/// The saved state of one unit: its own protobuf message, packed.
struct UnitState {
  std::string type_url;  // "type.googleapis.com/vmmd.state.Serial"
  std::string value;     // the message, serialized
  std::uint32_t version = 1;
};

/// Anything with volatile state: devices, vCPUs, the VM's clock.
///
/// A device keeps three groups of members: configuration, glue (lines, memory, clock, sinks: injected), and
/// volatile state (one struct, `State state_`). reset() assigns a fresh State. save() and restore() name
/// every field of it. All of them run while vCPUs are parked and device work is drained, but lock like any
/// other call.
class StateUnit {
 public:
  virtual ~StateUnit() = default;

  /// Stable and unique in the VM: "serial0", "ioapic", "disk:<id>". From config ids, never from order or
  /// address.
  [[nodiscard]] virtual std::string_view unit_name() const = 0;

  /// The unit's message; NotSupported if it cannot be saved now, with the reason.
  [[nodiscard]] virtual Result<UnitState> save() const = 0;

  /// Validates all of `state` (it is hostile input) before changing anything, then takes it over and drives
  /// its outputs (lines, timers) to match. On error the unit is as it was.
  virtual Status restore(const UnitState& state) = 0;

  /// Power-on state.
  virtual void reset() = 0;

  /// What vm.counters shows for this unit. Counters are not state: they start at zero in every process.
  [[nodiscard]] virtual std::map<std::string, std::int64_t> counters() const { return {}; }
};

/// Packs a message for save().
[[nodiscard]] UnitState pack_state(const google::protobuf::MessageLite& message, std::uint32_t version = 1);

/// Unpacks for restore(): refuses another message type, a version above `newest_version`, and bytes that do
/// not parse. `unit` is for the message.
Status unpack_state(const UnitState& state, std::string_view unit, std::uint32_t newest_version,
                    google::protobuf::MessageLite& message);

}  // namespace vmmd::devices
