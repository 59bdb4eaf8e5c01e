#include "daemon/snapshot/units.h"

#include <map>
#include <string_view>

namespace vmmd::snapshot {

namespace {

using SavedByName = std::map<std::string_view, const state::SavedUnit*>;

}  // namespace

Result<state::SavedState> save_units(std::span<devices::StateUnit* const> units) {
  state::SavedState saved;
  Error refused{ErrorCode::NotSupported, {"some units cannot be saved"}};
  for (const devices::StateUnit* unit : units) {
    auto state = unit->save();
    if (!state) {
      if (state.error().code != ErrorCode::NotSupported) refused.code = state.error().code;
      refused.messages.push_back(fmt::format("{}: {}", unit->unit_name(), state.error().to_string()));
      continue;
    }
    state::SavedUnit& entry = *saved.add_units();
    entry.set_name(std::string(unit->unit_name()));
    entry.set_version(state->version);
    entry.mutable_state()->set_type_url(std::move(state->type_url));
    entry.mutable_state()->set_value(std::move(state->value));
  }
  refused.side_by_side = refused.messages.size() - 1;
  if (refused.side_by_side > 0) return tl::make_unexpected(std::move(refused));
  return saved;
}

Status compare_units(const state::SavedState& saved, std::span<devices::StateUnit* const> units,
                     std::vector<std::string>& fresh) {
  Error wrong{ErrorCode::BadRequest, {"the snapshot's units do not fit this machine"}};
  SavedByName by_name;
  for (const state::SavedUnit& unit : saved.units()) {
    if (!by_name.emplace(unit.name(), &unit).second) {
      wrong.messages.push_back(fmt::format("unit {} is there twice", unit.name()));
    }
  }
  for (const devices::StateUnit* unit : units) {
    if (by_name.erase(unit->unit_name()) == 0) fresh.emplace_back(unit->unit_name());
  }
  for (const auto& [name, unit] : by_name) {
    wrong.messages.push_back(
        fmt::format("unit {} is in the snapshot, but the machine has no such unit", name));
  }
  wrong.side_by_side = wrong.messages.size() - 1;
  if (wrong.side_by_side > 0) return tl::make_unexpected(std::move(wrong));
  return {};
}

Status restore_units(const state::SavedState& saved, std::span<devices::StateUnit* const> units) {
  SavedByName by_name;
  for (const state::SavedUnit& unit : saved.units()) by_name.emplace(unit.name(), &unit);
  for (devices::StateUnit* unit : units) {
    const auto found = by_name.find(unit->unit_name());
    if (found == by_name.end()) continue;
    const state::SavedUnit& entry = *found->second;
    const devices::UnitState state{entry.state().type_url(), entry.state().value(), entry.version()};
    if (auto restored = unit->restore(state); !restored) {
      return wrap(std::move(restored).error(), "cannot restore unit {}", unit->unit_name());
    }
  }
  return {};
}

}  // namespace vmmd::snapshot
