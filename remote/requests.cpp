#include "remote/requests.h"

#include <charconv>
#include <utility>

#include <fmt/format.h>

#include "api/config_json.h"
#include "api/edit_distance.h"
#include "api/json_argument.h"
#include "api/messages.h"
#include "api/net_fds.h"
#include "api/option_text.h"
#include "api/options.h"
#include "api/request_enums.h"

namespace vmmd::remote {

namespace {

/// A path or a URL, be it valid or not; a word is not.
bool names_a_place(std::string_view text) {
  return text.find_first_of("/:") != std::string_view::npos || text == "." || text == "..";
}

}  // namespace

Result<std::pair<std::string, std::string>> parse_label(const std::string& text) {
  const auto equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    return fail(ErrorCode::BadRequest, "--label \"{}\": give it as NAME=VALUE", text);
  }
  return std::pair(text.substr(0, equals), text.substr(equals + 1));
}

std::optional<std::uint64_t> parse_count(const std::string& text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Result<RequestBody> create_body(const Arguments& arguments) {
  const std::string path = arguments.find("path").value_or("-");
  auto body = api::read_json_argument(path);
  if (!body) return wrap(std::move(body).error(), "cannot read the VM's configuration");
  // What is wrong with it is the daemon's to say.
  const auto config = api::parse_vm_config(*body);
  if (!config) return RequestBody(std::move(*body));
  VMMD_ASSIGN(auto fds, api::inherited_fds(api::fd_places(*config)));
  return RequestBody(std::move(*body), std::move(fds));
}

std::string check_snapshot(const Arguments& arguments) {
  const std::string destination = arguments.get("destination_url");
  if (destination.empty()) return {};  // said elsewhere
  if (names_a_place(destination)) return {};
  std::vector<std::string_view> words;
  for (const Command& command : commands()) {
    constexpr std::string_view kPrefix = "snapshot ";
    if (command.name.starts_with(kPrefix)) words.push_back(command.name.substr(kPrefix.size()));
  }
  const std::string_view near = api::closest(destination, words);
  return fmt::format("\"{}\" is neither a destination (file:///dir, /dir or ./{}) nor one of {}{}",
                     destination, destination, fmt::join(words, ", "),
                     near.empty() ? "" : fmt::format("; did you mean `snapshot {}`?", near));
}

Result<RequestBody> snapshot_body(const Arguments& arguments) {
  api::SnapshotRequest request;
  VMMD_ASSIGN(request.destination_url, api::directory_from_user(arguments.get("destination_url")));
  if (const auto mode = arguments.find("--mode")) {
    for (const auto& [name, value] : api::enum_names(api::SnapshotRequest::Mode{})) {
      if (api::equal_ignoring_case(name, *mode)) request.mode = value;
    }
  }
  request.pause = arguments.has("--pause");
  request.resume = arguments.has("--resume");
  for (const std::string& text : arguments.all("--label")) {
    VMMD_ASSIGN(auto label, parse_label(text));
    const std::string name = label.first;
    if (!request.labels.insert(std::move(label)).second) {
      return fail(ErrorCode::BadRequest, "--label {} is given twice", name);
    }
  }
  request.cancel_on_disconnect = true;
  return api::to_json(request);
}

Result<RequestBody> restore_body(const Arguments& arguments) {
  std::string config = arguments.get("restore_config");
  // Without a key it can only be the source.
  const std::string_view first = std::string_view(config).substr(0, config.find(','));
  const bool path = first.starts_with('/') || first.starts_with("./") || first.starts_with("../");
  if (path || first.starts_with("file:") || first.find('=') == std::string_view::npos)
    config = "source_url=" + config;
  auto request = api::parse_restore_option(config);
  if (!request) return wrap(std::move(request).error(), "cannot understand \"{}\"", config);
  if (const auto overrides = arguments.find("--overrides")) {
    auto text = api::read_json_argument(*overrides);
    if (!text) return wrap(std::move(text).error(), "--overrides");
    request->overrides = std::move(*text);
  }
  VMMD_ASSIGN(auto fds, api::inherited_fds(api::fd_places(*request)));
  return RequestBody(api::to_json(*request), std::move(fds));
}

Result<RequestBody> cancel_body(const Arguments& arguments) {
  return api::cancel_request_json(arguments.get("job"));
}

Result<RequestBody> resize_body(const Arguments& arguments) {
  const auto size = [&arguments](std::string_view name) -> Result<std::optional<std::uint64_t>> {
    const auto text = arguments.find(name);
    if (!text) return std::nullopt;
    auto bytes = api::parse_size(*text);
    if (!bytes) return wrap(std::move(bytes).error(), "{}", name);
    return *bytes;
  };
  VMMD_ASSIGN(const auto vcpus, size("--cpus"));
  VMMD_ASSIGN(const auto ram, size("--memory"));
  VMMD_ASSIGN(const auto balloon, size("--balloon"));
  if (!vcpus && !ram && !balloon)
    return fail(ErrorCode::BadRequest, "nothing to resize: give --balloon SIZE");
  return api::resize_request_json({balloon}, vcpus, ram);
}

Result<RequestBody> resize_disk_body(const Arguments& arguments) {
  auto bytes = api::parse_size(arguments.get("--size"));
  if (!bytes) return wrap(std::move(bytes).error(), "--size");
  return RequestBody(api::to_json(api::ResizeDiskRequest{arguments.get("--disk"), *bytes}));
}

Result<RequestBody> unbuilt_body(const Arguments&) {
  return RequestBody("{}");
}

}  // namespace vmmd::remote
