#include "api/overrides.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/config_json.h"
#include "api/findings.h"
#include "api/json_reader.h"
#include "api/merge_overrides.h"
#include "api/validate.h"

namespace vmmd::api {

namespace {

using nlohmann::json;

// JSON pointers of what may differ between a VM and its clone; '*' stands for one component.
constexpr std::array<std::string_view, 41> kHostSide{
    "/cpus/affinity",
    "/cpus/core_scheduling",
    "/memory/file",
    "/memory/shared",
    "/memory/hugepages",
    "/memory/hugepage_size",
    "/memory/prefault",
    "/memory/reserve",
    "/memory/thp",
    "/memory/mergeable",
    "/payload",
    "/serial/mode",
    "/serial/file",
    "/serial/socket",
    "/console/mode",
    "/console/file",
    "/console/socket",
    "/debug_console/mode",
    "/debug_console/file",
    "/disks/*/path",
    "/disks/*/vhost_socket",
    "/disks/*/direct",
    "/disks/*/overlay",
    "/disks/*/overlay_limit",
    "/disks/*/on_enospc",
    "/disks/*/queue_affinity",
    "/disks/*/rate_limiter_config",
    "/disks/*/rate_limit_group",
    "/rate_limit_groups",
    "/net/*/rate_limiter_config",
    "/net/*/tap",
    "/net/*/fds",
    "/net/*/passt",
    "/net/*/ip",
    "/net/*/mask",
    "/net/*/mac",
    "/net/*/host_mac",
    "/pmem/*/file",
    "/vsock/cid",
    "/vsock/socket",
    "/rng/src",
};

bool matches(std::string_view pattern, std::string_view pointer) {
  while (!pattern.empty()) {
    const auto take = [](std::string_view& text) {
      const std::size_t end = text.find('/', 1);
      const std::string_view part = text.substr(0, end);
      text = end == std::string_view::npos ? std::string_view() : text.substr(end);
      return part;
    };
    if (pointer.empty()) return false;
    const std::string_view want = take(pattern);
    const std::string_view have = take(pointer);
    if (want != "/*" && want != have) return false;
  }
  return true;  // what lies below an allowed place is allowed as well
}

bool is_host_side(std::string_view pointer) {
  return std::any_of(kHostSide.begin(), kHostSide.end(),
                     [&](std::string_view p) { return matches(p, pointer); });
}

json tree_of(const VmConfig& config) {
  return json::parse(to_json(config));
}

std::string text_at(const json& tree, const std::string& pointer) {
  const json::json_pointer place(pointer);
  return tree.contains(place) ? tree.at(place).dump(-1, ' ', false, json::error_handler_t::replace) : "";
}

ConfigChange change_of(const json& step, const json& before, const json& after) {
  const std::string& pointer = step.at("path").get_ref<const std::string&>();
  return {pointer, text_at(before, pointer), text_at(after, pointer)};
}

// A console that is Off has no device: the guest would find one that it never had, or miss one.
bool comes_or_goes(const ConfigChange& change) {
  constexpr std::array<std::string_view, 3> kModes{"/serial/mode", "/console/mode", "/debug_console/mode"};
  constexpr std::string_view kOff = R"("Off")";
  return std::find(kModes.begin(), kModes.end(), change.pointer) != kModes.end() &&
         (change.before == kOff) != (change.after == kOff);
}

// Whether the guest would not see it; what it would see goes to `findings`.
bool check_unseen(const ConfigChange& change, Findings& findings) {
  if (comes_or_goes(change)) {
    findings.add(ErrorCode::BadRequest, change.pointer,
                 "the guest would see the device come or go: a mode cannot be changed to Off or from it "
                 "(Null is a device without a host side)");
    return false;
  }
  if (is_host_side(change.pointer)) return true;
  findings.add(ErrorCode::BadRequest, change.pointer,
               "the guest would see this change: it cannot be overridden");
  return false;
}

class Restored {
 public:
  explicit Restored(std::vector<ConfigProblem>& problems) : problems_(problems) {}

  std::optional<VmConfig> make(std::string_view sealed, std::string_view overrides) {
    auto original = parse_vm_config(sealed);
    if (!original) {
      tell("config.json of the snapshot", original.error());
      return std::nullopt;
    }
    original->memory.file.reset();
    VmConfig config = overrides.empty() ? std::move(*original) : overridden(*original, overrides);
    if (const auto valid = validate(config, ValidateFor::Restore); !valid)
      tell("the configuration does not fit this host; see overrides", valid.error());
    return config;
  }

 private:
  VmConfig overridden(const VmConfig& original, std::string_view overrides) {
    const auto patch = JsonDocument::parse(overrides);
    if (!patch) {
      tell("overrides", patch.error());
      return original;
    }
    if (!patch->root().is_object()) {
      problems_.push_back({"", "overrides: expected an object"});
      return original;
    }
    const json before = tree_of(original);
    json merged = before;
    Findings lists;
    merge_overrides(merged, patch->root(), lists);
    if (const auto told = std::move(lists).status(); !told) tell("overrides", told.error());
    auto changed = parse_vm_config(merged.dump());
    if (!changed) {
      for (const std::string& pointer : tell("overrides", changed.error()))
        take_back(merged, before, pointer);
      changed = parse_vm_config(merged.dump());
    }
    return changed ? unseen_part(original, *changed) : original;
  }

  /// Gives what stands at `pointer` of `merged` the value that it had.
  static void take_back(json& merged, const json& before, const std::string& pointer) {
    const json::json_pointer place(pointer);
    if (before.contains(place)) {
      merged[place] = before.at(place);
    } else if (merged.contains(place) && merged.at(place.parent_pointer()).is_object()) {
      merged.at(place.parent_pointer()).erase(place.back());
    }
  }

  /// `original` with those changes of `changed` that the guest would not see.
  VmConfig unseen_part(const VmConfig& original, const VmConfig& changed) {
    const json before = tree_of(original);
    const json after = tree_of(changed);
    Findings findings;
    json unseen = json::array();
    std::vector<std::string> refused_modes;
    for (const json& step : json::diff(before, after)) {
      const ConfigChange change = change_of(step, before, after);
      if (check_unseen(change, findings)) {
        unseen.push_back(step);
      } else if (change.pointer.ends_with("/mode")) {
        refused_modes.push_back(change.pointer.substr(0, change.pointer.size() - std::string("mode").size()));
      }
    }
    const auto seen = std::move(findings).status();
    if (seen) return changed;
    tell("overrides", seen.error());
    // What was said of a path goes with the mode that it was said for.
    std::erase_if(unseen.get_ref<json::array_t&>(), [&](const json& step) {
      const std::string& pointer = step.at("path").get_ref<const std::string&>();
      return std::any_of(refused_modes.begin(), refused_modes.end(),
                         [&](const std::string& console) { return pointer.starts_with(console); });
    });
    json patched = before;
    try {
      patched.patch_inplace(unseen);
    } catch (const json::exception&) {  // steps that need one that was left out
      return original;
    }
    auto config = parse_vm_config(patched.dump());
    return config ? *config : original;
  }

  /// Each of what stands side by side is a problem of its own. The pointers, where there are any.
  std::vector<std::string> tell(std::string_view headline, const Error& error) {
    std::vector<std::string> pointers;
    const auto add = [&](const std::string& message) {
      std::string pointer;
      if (message.starts_with('/')) pointer = message.substr(0, message.find(": "));
      if (!pointer.empty()) pointers.push_back(pointer);
      problems_.push_back({std::move(pointer), fmt::format("{}: {}", headline, message)});
    };
    if (error.side_by_side == error.messages.size()) {
      for (const std::string& message : error.messages) add(message);
    } else {
      add(error.to_string());
    }
    return pointers;
  }

  std::vector<ConfigProblem>& problems_;
};

}  // namespace

std::optional<VmConfig> restored_config(std::string_view sealed, std::string_view overrides,
                                        std::vector<ConfigProblem>& problems) {
  return Restored(problems).make(sealed, overrides);
}

Result<std::vector<ConfigChange>> check_edit(std::string_view sealed, std::string_view edited) {
  auto before = parse_vm_config(sealed);
  if (!before) return wrap(std::move(before).error(), "config.json as it was sealed");
  auto after = parse_vm_config(edited);
  if (!after) return wrap(std::move(after).error(), "config.json as it was edited");
  const json old_tree = tree_of(*before);
  const json new_tree = tree_of(*after);
  std::vector<ConfigChange> found;
  Findings findings;
  for (const json& step : json::diff(old_tree, new_tree)) {
    found.push_back(change_of(step, old_tree, new_tree));
    check_unseen(found.back(), findings);
  }
  VMMD_TRY(std::move(findings).status());
  // As at restore, where it names the RAM of the VM that was saved.
  after->memory.file.reset();
  if (auto valid = validate(*after, ValidateFor::Restore); !valid) {
    return wrap(std::move(valid).error(), "the edited configuration does not fit this host");
  }
  return found;
}

}  // namespace vmmd::api
