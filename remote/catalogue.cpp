#include "remote/catalogue.h"

#include <ctime>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/config.h"
#include "api/config_json.h"
#include "api/json_argument.h"
#include "api/options.h"
#include "api/overrides.h"
#include "daemon/snapshot/format/catalogue.h"
#include "daemon/snapshot/format/leftovers.h"
#include "daemon/snapshot/format/open.h"
#include "daemon/snapshot/format/reseal.h"
#include "daemon/snapshot/format/verify.h"
#include "daemon/snapshot/restorable/restorable.h"
#include "remote/describe.h"
#include "remote/interrupt.h"
#include "remote/progress.h"
#include "remote/requests.h"
#include "remote/session.h"
#include "remote/table.h"

namespace vmmd::remote {

using nlohmann::ordered_json;

namespace {

/// A path as it is, or file:///dir: what `snapshot` made can be given back as it was given.
Result<std::filesystem::path> directory_of(const Arguments& arguments) {
  const std::string text = arguments.get("dir");
  if (text.starts_with("file:")) return api::path_from_file_url(text);
  return std::filesystem::path(text);
}

std::string json_text(const ordered_json& value) {
  return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string damage_text(const snapshot::VerifyReport& report) {
  std::vector<std::vector<std::string>> rows = {{"DAMAGED", "AT IN memory.bin", "GUEST ADDRESS"}};
  for (const auto& range : report.damaged) {
    rows.push_back({format_size(range.length), fmt::format("{:#x}", range.file_offset),
                    fmt::format("{:#x}", range.guest_address)});
  }
  return format_table(rows);
}

ordered_json report_json(const snapshot::VerifyReport& report) {
  ordered_json out;
  out["bytes_total"] = report.bytes_total;
  out["bytes_read"] = report.bytes_read;
  out["damaged"] = ordered_json::array();
  for (const auto& range : report.damaged) {
    out["damaged"].push_back({{"file_offset", range.file_offset},
                              {"guest_address", range.guest_address},
                              {"length", range.length}});
  }
  out["damaged_layers"] = report.damaged_layers;
  return out;
}

/// All that verify found, as one error.
Status verdict(const snapshot::VerifyReport& report, const std::string& directory) {
  snapshot::Problems problems;
  if (!report.damaged.empty()) problems.add("memory.bin is damaged in {} places", report.damaged.size());
  for (const std::string& layer : report.damaged_layers)
    problems.add("{} is damaged: its digest differs", snapshot::shown(layer));
  return problems.to_status(ErrorCode::BadRequest, fmt::format("{} is damaged", directory));
}

}  // namespace

Status run_snapshot_list(Session& session, const Command&, const Arguments& arguments) {
  VMMD_ASSIGN(const auto directory, directory_of(arguments));
  VMMD_ASSIGN(const auto snapshots, snapshot::list_snapshots(directory));
  auto rows = ordered_json::array();
  for (const auto& snapshot : snapshots) rows.push_back(summary_json(snapshot));
  session.set_result(json_text(rows));
  session.print(snapshots.empty() ? fmt::format("no snapshots in {}", directory.native())
                                  : list_text(snapshots, std::time(nullptr)));
  return {};
}

Status run_snapshot_info(Session& session, const Command&, const Arguments& arguments) {
  VMMD_ASSIGN(const auto directory, directory_of(arguments));
  VMMD_ASSIGN(const auto found, snapshot::describe(directory));
  session.set_result(json_text(details_json(found)));
  session.print(details_text(found));
  if (found.state == snapshot::SnapshotState::NotASnapshot) {
    return fail(ErrorCode::BadRequest, "{} is not a snapshot", directory.native());
  }
  return {};
}

Status run_snapshot_check(Session& session, const Command&, const Arguments& arguments) {
  VMMD_ASSIGN(const auto directory, directory_of(arguments));
  std::string overrides;
  if (const auto given = arguments.find("--overrides")) {
    VMMD_ASSIGN(overrides, api::read_json_argument(*given));
  }
  api::RestoreRequest request;
  request.overrides = overrides;
  snapshot::Problems problems;
  std::vector<std::string> notes;
  static_cast<void>(snapshot::examine(directory, request, snapshot::ThisHost(),
                                      snapshot::MachineChecks::Always, problems, notes));
  ordered_json result;
  result["path"] = directory.native();
  result["problems"] = problems.messages();
  result["notes"] = notes;
  session.set_result(json_text(result));
  for (const std::string& note : notes) session.print("note: " + note);
  VMMD_TRY(problems.to_status(ErrorCode::BadRequest, fmt::format("cannot restore {}", directory.native())));
  session.print(fmt::format("{} can be restored here", directory.native()));
  return {};
}

Status run_snapshot_verify(Session& session, const Command&, const Arguments& arguments) {
  VMMD_ASSIGN(const auto directory, directory_of(arguments));
  VMMD_ASSIGN(const auto opened, snapshot::open_snapshot(directory));
  VMMD_ASSIGN(Interrupts interrupts, Interrupts::take());
  snapshot::VerifyReport report;
  {
    ProgressBar bar("verify", session.shows_progress());
    const auto progress = [&](std::uint64_t done, std::uint64_t total) {
      bar.update(done, total);
      return interrupts.next() == 0;
    };
    VMMD_ASSIGN(report, snapshot::verify_memory(opened, progress));
  }
  const auto interrupted = [&] { return report.cancelled = report.cancelled || interrupts.next() != 0; };
  report.damaged_layers = snapshot::damaged_layers(opened, interrupted);
  if (report.cancelled)
    return fail(ErrorCode::Conflict, "interrupted: nothing is known of {}", directory.native());
  session.set_result(json_text(report_json(report)));
  if (!report.damaged.empty()) session.print(damage_text(report));
  VMMD_TRY(verdict(report, directory.native()));
  session.print(fmt::format("{} is intact: {} read, {} of holes", directory.native(),
                            format_size(report.bytes_read),
                            format_size(report.bytes_total - report.bytes_read)));
  return {};
}

Status run_snapshot_digest(Session& session, const Command&, const Arguments& arguments) {
  VMMD_ASSIGN(const auto directory, directory_of(arguments));
  VMMD_ASSIGN(auto opened, snapshot::open_snapshot(directory));
  const bool had_them = opened.digests.valid();
  VMMD_ASSIGN(Interrupts interrupts, Interrupts::take());
  bool recorded = false;
  {
    ProgressBar bar("digest", session.shows_progress());
    const auto progress = [&](std::uint64_t done, std::uint64_t total) {
      bar.update(done, total);
      return interrupts.next() == 0;
    };
    VMMD_ASSIGN(recorded, snapshot::record_memory_digests(opened, progress));
  }
  if (!recorded) return fail(ErrorCode::Conflict, "interrupted: {} is as it was", directory.native());
  ordered_json result;
  result["recorded"] = !had_them;
  session.set_result(json_text(result));
  session.print(had_them ? fmt::format("{} had its digests already", directory.native())
                         : fmt::format("{} can be verified now", directory.native()));
  return {};
}

Status run_snapshot_delete(Session& session, const Command&, const Arguments& arguments) {
  VMMD_ASSIGN(const auto directory, directory_of(arguments));
  static_cast<void>(session);
  return snapshot::remove_snapshot(directory);
}

Status run_snapshot_gc(Session& session, const Command&, const Arguments& arguments) {
  VMMD_ASSIGN(const auto directory, directory_of(arguments));
  VMMD_ASSIGN(auto removed, snapshot::collect_leftovers(directory));
  VMMD_ASSIGN(const auto inside, snapshot::collect_inside(directory));
  removed.insert(removed.end(), inside.begin(), inside.end());
  auto paths = ordered_json::array();
  for (const auto& path : removed) {
    paths.push_back(path.native());
    session.print(fmt::format("removed {}", path.native()));
  }
  session.set_result(json_text(paths));
  return {};
}

Status run_snapshot_seal(Session& session, const Command&, const Arguments& arguments) {
  VMMD_ASSIGN(const auto directory, directory_of(arguments));
  std::vector<api::ConfigChange> changes;
  const auto check = [&changes](const std::string& sealed, const std::string& edited) -> Status {
    VMMD_ASSIGN(changes, api::check_edit(sealed, edited));
    return {};
  };
  const auto disks_of = [](const std::string& config) -> Result<std::vector<snapshot::DiskFile>> {
    VMMD_ASSIGN(const api::VmConfig parsed, api::parse_vm_config(config));
    return snapshot::disk_files(parsed);
  };
  VMMD_ASSIGN(const bool changed, snapshot::seal(directory, check, disks_of));
  ordered_json result;
  result["changed"] = changed;
  result["changes"] = ordered_json::array();
  const auto or_nothing = [](const std::string& json) {
    return json.empty() ? std::string("nothing") : json;
  };
  for (const api::ConfigChange& change : changes) {
    result["changes"].push_back({{"pointer", change.pointer},
                                 {"before", ordered_json::parse(change.before, nullptr, false)},
                                 {"after", ordered_json::parse(change.after, nullptr, false)}});
    session.print(
        fmt::format("{}: {} -> {}", change.pointer, or_nothing(change.before), or_nothing(change.after)));
  }
  for (auto& change : result["changes"]) {
    for (const char* side : {"before", "after"}) {
      if (change[side].is_discarded()) change[side] = nullptr;
    }
  }
  session.set_result(json_text(result));
  if (!changed) session.print("nothing changed: config.json is as it was sealed");
  if (changed && changes.empty()) session.print("only the form changed, no value; sealed");
  return {};
}

}  // namespace vmmd::remote
