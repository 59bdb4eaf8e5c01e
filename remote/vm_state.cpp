#include "remote/vm_state.h"

#include <nlohmann/json.hpp>

namespace vmmd::remote {

namespace {

using nlohmann::json;

const json& member(const json& object, const char* key) {
  static const json nothing;
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found == object.end() ? nothing : *found;
}

std::string text(const json& value) {
  return value.is_string() ? value.get<std::string>() : std::string();
}

std::uint64_t number(const json& value) {
  return value.is_number_unsigned() ? value.get<std::uint64_t>() : 0;
}

ConsolePlace console_place(const json& config) {
  ConsolePlace place;
  place.mode = text(member(config, "mode"));
  place.path = text(member(config, place.mode == "Socket" ? "socket" : "file"));
  return place;
}

}  // namespace

VmSummary parse_vm_info(const std::string& body) {
  const json info = json::parse(body, nullptr, /*allow_exceptions=*/false);
  const json& config = member(info, "config");
  VmSummary summary;
  summary.state = text(member(info, "state"));
  summary.memory = number(member(info, "memory_actual_size"));
  summary.vcpus = number(member(member(config, "cpus"), "boot_vcpus"));
  summary.serial = console_place(member(config, "serial"));
  summary.console = console_place(member(config, "console"));
  const json& jobs = member(info, "jobs");
  for (const json& job : jobs.is_array() ? jobs : json::array()) {
    const json& seconds = member(job, "seconds");
    summary.jobs.push_back({text(member(job, "id")), text(member(job, "kind")), text(member(job, "phase")),
                            number(member(job, "bytes_done")), number(member(job, "bytes_total")),
                            seconds.is_number() ? seconds.get<double>() : 0});
  }
  return summary;
}

Result<std::optional<VmSummary>> vm_summary(const api::Client& client) {
  auto answer = client.request(api::Verb::Get, "vm.info");
  if (answer) return std::optional(parse_vm_info(answer->body));
  // That the daemon is not there is NotFound, too.
  if (answer.error().code != ErrorCode::NotFound) return tl::make_unexpected(std::move(answer).error());
  VMMD_TRY(client.request(api::Verb::Get, "vmm.ping"));
  return std::optional<VmSummary>();
}

Result<std::string> vm_state(const api::Client& client) {
  VMMD_ASSIGN(const auto summary, vm_summary(client));
  return summary ? summary->state : std::string("None");
}

}  // namespace vmmd::remote
