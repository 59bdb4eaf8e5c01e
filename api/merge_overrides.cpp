#include "api/merge_overrides.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "api/edit_distance.h"
#include "base/printable.h"

namespace vmmd::api {

namespace {

using nlohmann::json;

constexpr std::size_t kMostIds = 16;      // of a list, in a message
constexpr std::size_t kQuotedLimit = 64;  // bytes of each

json* find_by_id(json& list, const json& id) {
  for (json& element : list) {
    if (element.is_object() && element.contains("id") && element["id"] == id) return &element;
  }
  return nullptr;
}

bool has_id(const json& element) {
  return element.is_object() && element.contains("id") && element["id"].is_string();
}

bool has_ids(const json& list) {
  return list.is_array() && !list.empty() && std::all_of(list.begin(), list.end(), has_id);
}

std::string in_quotes(std::string_view id) {
  return fmt::format("\"{}\"", printable(id.substr(0, kQuotedLimit)));
}

std::string in_quotes(const std::vector<std::string_view>& ids) {
  const std::size_t shown = std::min(ids.size(), kMostIds);
  std::string text;
  for (std::size_t i = 0; i < shown; ++i) text += (i == 0 ? "" : ", ") + in_quotes(ids[i]);
  return shown == ids.size() ? text : fmt::format("{} and {} more", text, ids.size() - shown);
}

class Merger {
 public:
  explicit Merger(Findings& findings) : findings_(findings) {}

  // Depth is bounded: both documents passed JsonDocument's limit.
  void merge(json& target, const json& patch, const std::string& pointer) {
    if (patch.is_array() && !patch.empty() && has_ids(target)) return merge_list(target, patch, pointer);
    if (!patch.is_object()) {
      target = patch;
      return;
    }
    if (!target.is_object()) target = json::object();
    for (const auto& [key, value] : patch.items()) {
      if (value.is_null()) {
        target.erase(key);
      } else {
        merge(target[key], value, fmt::format("{}/{}", pointer, key));
      }
    }
  }

 private:
  void merge_list(json& target, const json& patch, const std::string& pointer) {
    std::vector<std::string> names;  // of their own: the list may grow
    for (const json& element : target) names.push_back(element["id"].get<std::string>());
    const std::vector<std::string_view> ids(names.begin(), names.end());
    for (std::size_t i = 0; i < patch.size(); ++i) {
      const json& element = patch[i];
      const std::string place = fmt::format("{}/{}", pointer, i);
      if (!has_id(element)) {
        findings_.add(ErrorCode::BadRequest, place,
                      "it has no id: lists merge by id, so say which of {} is meant", in_quotes(ids));
      } else if (json* found = find_by_id(target, element["id"])) {
        merge(*found, element, place);
      } else if (pointer == "/rate_limit_groups") {
        target.push_back(element);
      } else {
        const std::string& id = element["id"].get_ref<const std::string&>();
        const std::string_view near = closest(id, ids);
        findings_.add(ErrorCode::BadRequest, place,
                      "the VM has no {} there, and the guest would see it come: its ids are {}{}",
                      in_quotes(id), in_quotes(ids),
                      near.empty() ? "" : "; did you mean " + in_quotes(near) + "?");
      }
    }
  }

  Findings& findings_;
};

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
  if (!patch.contains("net") || !patch["net"].is_array() || !target.contains("net")) return;
  constexpr std::array<const char*, 3> kEnds{"tap", "fds", "passt"};
  for (const json& element : patch["net"]) {
    if (!has_id(element)) continue;
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

}  // namespace

void merge_overrides(json& config, const json& overrides, Findings& findings) {
  drop_paths_of_old_modes(config, overrides);
  drop_old_networks(config, overrides);
  Merger(findings).merge(config, overrides, "");
}

}  // namespace vmmd::api
