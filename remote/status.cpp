#include "remote/status.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "remote/session.h"
#include "remote/table.h"
#include "remote/vm_state.h"

namespace vmmd::remote {

Status run_status(Session& session, const Command&, const Arguments&) {
  VMMD_ASSIGN(const auto summary, vm_summary(session.client()));
  nlohmann::ordered_json result;
  result["state"] = summary ? summary->state : "None";
  std::vector<std::vector<std::string>> rows = {{"State:", summary ? summary->state : "no VM"}};
  if (summary) {
    rows.push_back({"RAM:", format_size(summary->memory)});
    rows.push_back({"CPUs:", fmt::to_string(summary->vcpus)});
    rows.push_back({"Serial:", fmt::format("{} {}", summary->serial.mode, summary->serial.path)});
    result["memory_size_bytes"] = summary->memory;
    result["vcpus"] = summary->vcpus;
    result["serial"] = {{"mode", summary->serial.mode}, {"path", summary->serial.path}};
    result["jobs"] = nlohmann::ordered_json::array();
    for (const api::JobStatus& job : summary->jobs) {
      rows.push_back({"Job:", fmt::format("{}: {}, {} of {}", job.id, job.phase, format_size(job.bytes_done),
                                          format_size(job.bytes_total))});
      result["jobs"].push_back(job.id);
    }
  }
  session.print(format_table(rows));
  session.set_result(result.dump());
  return {};
}

}  // namespace vmmd::remote
