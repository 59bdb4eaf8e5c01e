#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "devices/state_unit.h"
#include "proto/state.pb.h"

namespace vmmd::snapshot {

/// Saves every unit. If any cannot be saved, the error names all that cannot, each with its reason.
Result<state::SavedState> save_units(std::span<devices::StateUnit* const> units);

/// What differs between a snapshot's units and a machine's, all of it in one error: a unit that the machine
/// lacks and one that is there twice. Units which the snapshot lacks are not an error: their names are
/// appended to `fresh`.
Status compare_units(const state::SavedState& saved, std::span<devices::StateUnit* const> units,
                     std::vector<std::string>& fresh);

/// Restores the units in the order given. Those that the snapshot lacks stay in their power-on state.
/// Compared before (compare_units), so that nothing has changed when names do not fit; a unit's own refusal
/// leaves the machine half restored: throw it away.
Status restore_units(const state::SavedState& saved, std::span<devices::StateUnit* const> units);

}  // namespace vmmd::snapshot
