#include "api/overrides.h"

#include <algorithm>
#include <array>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/config_json.h"
#include "api/findings.h"
#include "api/json_reader.h"
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

json* find_by_id(json& list, const json& id) {
  for (json& element : list) {
    if (element.is_object() && element.contains("id") && element["id"] == id) return &element;
  }
  return nullptr;
}

bool has_ids(const json& list) {
  return list.is_array() && !list.empty() && std::all_of(list.begin(), list.end(), [](const json& e) {
           return e.is_object() && e.contains("id");
         });
}

// RFC 7386, and lists by id. Depth is bounded: both documents passed JsonDocument's limit.
void merge(json& target, const json& patch) {
  if (has_ids(patch) && has_ids(target)) {
    for (const json& element : patch) {
      if (json* found = find_by_id(target, element["id"])) {
        merge(*found, element);
      } else {
        target.push_back(element);
      }
    }
    return;
  }
  if (!patch.is_object()) {
    target = patch;
    return;
  }
  if (!target.is_object()) target = json::object();
  for (const auto& [key, value] : patch.items()) {
    if (value.is_null()) {
      target.erase(key);
    } else {
      merge(target[key], value);
    }
  }
}

// Who changes a console's mode has said what the old mode's path is worth; a merge patch would keep it, and
// the new mode refuse it.
void drop_paths_of_old_modes(json& target, const json& patch) {
  for (const char* console : {"serial", "console", "debug_console"}) {
    if (!patch.contains(console) || !patch[console].is_object() || !patch[console].contains("mode")) continue;
    if (!target.contains(console) || !target[console].is_object()) continue;
    const json& mode = patch[console]["mode"];
    if (mode != "File") target[console].erase("file");
    if (mode != "Socket") target[console].erase("socket");
  }
}

// The same for networks: a clone that gets another tap has no use for the descriptors of the first.
void drop_old_networks(json& target, const json& patch) {
  if (!patch.contains("net") || !has_ids(patch["net"]) || !target.contains("net")) return;
  constexpr std::array<const char*, 3> kEnds{"tap", "fds", "passt"};
  for (const json& element : patch["net"]) {
    json* net = find_by_id(target["net"], element["id"]);
    const bool moves = std::any_of(kEnds.begin(), kEnds.end(), [&](const char* end) {
      return element.contains(end) && !element[end].is_null();
    });
    if (net == nullptr || !moves) continue;
    for (const char* end : kEnds) net->erase(end);
    if (!element.contains("tap")) {  // nor for how a tap of our own was set up
      for (const char* field : {"ip", "mask", "host_mac"}) net->erase(field);
    }
  }
}

json tree_of(const VmConfig& config) {
  return json::parse(to_json(config));
}

std::string text_at(const json& tree, const std::string& pointer) {
  const json::json_pointer place(pointer);
  return tree.contains(place) ? tree.at(place).dump(-1, ' ', false, json::error_handler_t::replace) : "";
}

std::vector<ConfigChange> changes(const VmConfig& before, const VmConfig& after) {
  const json old_tree = tree_of(before);
  const json new_tree = tree_of(after);
  std::vector<ConfigChange> found;
  for (const json& step : json::diff(old_tree, new_tree)) {
    const std::string& pointer = step.at("path").get_ref<const std::string&>();
    found.push_back({pointer, text_at(old_tree, pointer), text_at(new_tree, pointer)});
  }
  return found;
}

// A console that is Off has no device: the guest would find one that it never had, or miss one.
bool comes_or_goes(const ConfigChange& change) {
  constexpr std::array<std::string_view, 3> kModes{"/serial/mode", "/console/mode", "/debug_console/mode"};
  constexpr std::string_view kOff = R"("Off")";
  return std::find(kModes.begin(), kModes.end(), change.pointer) != kModes.end() &&
         (change.before == kOff) != (change.after == kOff);
}

// All differences that a guest would see in one error, or nothing.
Status check_unseen(const std::vector<ConfigChange>& changes) {
  Findings findings;
  for (const ConfigChange& change : changes) {
    if (comes_or_goes(change)) {
      findings.add(ErrorCode::BadRequest, change.pointer,
                   "the guest would see the device come or go: a mode cannot be changed to Off or from it "
                   "(Null is a device without a host side)");
      continue;
    }
    if (is_host_side(change.pointer)) continue;
    findings.add(ErrorCode::BadRequest, change.pointer,
                 "the guest would see this change: it cannot be overridden");
  }
  return std::move(findings).status();
}

}  // namespace

Result<VmConfig> restored_config(std::string_view sealed, std::string_view overrides) {
  auto original = parse_vm_config(sealed);
  if (!original) return wrap(std::move(original).error(), "config.json of the snapshot");
  original->memory.file.reset();
  VmConfig config = *original;
  if (!overrides.empty()) {
    auto patch = JsonDocument::parse(overrides);
    if (!patch) return wrap(std::move(patch).error(), "overrides");
    if (!patch->root().is_object()) return fail(ErrorCode::BadRequest, "overrides: expected an object");
    json merged = tree_of(*original);
    drop_paths_of_old_modes(merged, patch->root());
    drop_old_networks(merged, patch->root());
    merge(merged, patch->root());
    auto changed = parse_vm_config(merged.dump());
    if (!changed) return wrap(std::move(changed).error(), "overrides");
    if (auto checked = check_unseen(changes(*original, *changed)); !checked) {
      return wrap(std::move(checked).error(), "overrides");
    }
    config = std::move(*changed);
  }
  if (auto valid = validate(config, ValidateFor::Restore); !valid) {
    return wrap(std::move(valid).error(), "the configuration does not fit this host; see overrides");
  }
  return config;
}

Result<std::vector<ConfigChange>> check_edit(std::string_view sealed, std::string_view edited) {
  auto before = parse_vm_config(sealed);
  if (!before) return wrap(std::move(before).error(), "config.json as it was sealed");
  auto after = parse_vm_config(edited);
  if (!after) return wrap(std::move(after).error(), "config.json as it was edited");
  std::vector<ConfigChange> found = changes(*before, *after);
  VMMD_TRY(check_unseen(found));
  // As at restore, where it names the RAM of the VM that was saved.
  after->memory.file.reset();
  if (auto valid = validate(*after, ValidateFor::Restore); !valid) {
    return wrap(std::move(valid).error(), "the edited configuration does not fit this host");
  }
  return found;
}

}  // namespace vmmd::api
