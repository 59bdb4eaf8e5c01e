#include <utility>

#include <nlohmann/json.hpp>

#include "api/findings.h"
#include "api/json_reader.h"
#include "api/json_writer.h"
#include "api/messages.h"
#include "api/options.h"
#include "api/passed_fds.h"
#include "api/request_enums.h"
#include "base/printable.h"

namespace vmmd::api {

namespace {

constexpr std::size_t kMaxLabels = 64;
constexpr std::size_t kMaxLabelName = 128;    // bytes
constexpr std::size_t kMaxLabelValue = 4096;  // bytes
constexpr std::size_t kMaxJobId = 128;        // bytes

struct CancelRequest {
  std::string id;
};

/// As it travels.
struct ResizeBody {
  std::optional<std::uint64_t> desired_vcpus;
  std::optional<std::uint64_t> desired_ram;
  std::optional<std::uint64_t> desired_balloon;
};

struct NetFdCount {
  std::string id;
  std::uint32_t num_fds = 0;
};

struct VfioFds {
  std::string id;
};

struct ZoneUpdate {
  std::string id;
  std::uint32_t host_numa_node = 0;
};

/// RestoreRequest as it travels: with Cloud Hypervisor's fields that are not built.
struct RestoreBody {
  RestoreRequest request;
  std::optional<std::string> memory_mode;
  RawObject overrides;
  std::vector<NetFdCount> net_fds;
  std::vector<VfioFds> vfio_fds;
  std::optional<std::int32_t> iommufd_fd;
  std::vector<ZoneUpdate> zone_updates;
};

template <class V>
void fields(V& v, CancelRequest& c) {
  v("id", c.id, kRequired);
}

template <class V>
void fields(V& v, ResizeBody& c) {
  v("desired_vcpus", c.desired_vcpus);
  v("desired_ram", c.desired_ram);
  v("desired_balloon", c.desired_balloon);
}

template <class V>
void fields(V& v, ConstOr<NetFdCount> auto& c) {
  v("id", c.id, kRequired);
  v("num_fds", c.num_fds, FieldRule{.required = true, .min = 1, .max = kMaxPassedFds});
}

template <class V>
void fields(V& v, VfioFds& c) {
  v("id", c.id, kRequired);
}

template <class V>
void fields(V& v, ZoneUpdate& c) {
  v("id", c.id, kRequired);
  v("host_numa_node", c.host_numa_node, kRequired);
}

template <class V>
void fields(V& v, RestoreBody& c) {
  v("source_url", c.request.source_url, kRequired);
  v("memory_restore_mode", c.memory_mode);
  v("prefault", c.request.prefault);
  v("resume", c.request.resume);
  v("verify", c.request.verify);
  v("cpu_check", c.request.cpu_check);
  v("identity", c.request.identity);
  v("clock", c.request.clock);
  v("overrides", c.overrides);
  v("memory_size", c.request.memory_size);
  v("vcpus", c.request.vcpus, {.min = 1, .max = 255});
  v("net_fds", c.net_fds);
  v("vfio_fds", c.vfio_fds);
  v("iommufd_fd", c.iommufd_fd);
  v("zone_updates", c.zone_updates);
}

/// The fields of ours, which Cloud Hypervisor does not have.
template <class V>
void extension_fields(V& v, ConstOr<SnapshotRequest> auto& c) {
  v("mode", c.mode);
  v("pause", c.pause);
  v("resume", c.resume);
  v("cancel_on_disconnect", c.cancel_on_disconnect);
  v("labels", c.labels);
}

// What the manifest of a snapshot can hold: docs/snapshot-format.md.
Status check_labels(const std::map<std::string, std::string>& labels) {
  Findings findings;
  if (labels.size() > kMaxLabels)
    findings.add(ErrorCode::BadRequest, "/labels", "{} labels are more than {}", labels.size(), kMaxLabels);
  const JsonPath root;
  const JsonPath list(root, "labels");
  for (const auto& [name, value] : labels) {
    const std::string pointer = printable(JsonPath(list, name).to_string());
    if (name.empty() || name.size() > kMaxLabelName) {
      findings.add(ErrorCode::BadRequest, pointer, "a label's name has 1 to {} bytes, not {}", kMaxLabelName,
                   name.size());
    } else if (has_control_characters(name)) {
      findings.add(ErrorCode::BadRequest, pointer, "a label's name has no control characters (\"?\" here)");
    }
    if (value.size() > kMaxLabelValue) {
      findings.add(ErrorCode::BadRequest, pointer, "a label's value has up to {} bytes, not {}",
                   kMaxLabelValue, value.size());
    }
  }
  return std::move(findings).status();
}

/// A mistake in a body is one message, where first: JSON pointers are no level of the chain of errors.
tl::unexpected<Error> blame_field(std::string_view pointer, const Error& error) {
  return fail(error.code, "{}: {}", pointer, error.to_string());
}

Status check_url(std::string_view pointer, std::string_view url) {
  const auto path = path_from_file_url(url);
  return path ? Status{} : blame_field(pointer, path.error());
}

}  // namespace

template <class V>
void fields(V& v, ResizeDiskRequest& c) {
  v("id", c.id, kRequired);
  v("desired_size", c.desired_size, kRequired);
}

template <class V>
void fields(V& v, ConstOr<SnapshotRequest> auto& c) {
  v("destination_url", c.destination_url, kRequired);
  extension_fields(v, c);
  if constexpr (requires { v.given("mode"); }) {
    for (const char* name : {"mode", "pause", "resume", "cancel_on_disconnect", "labels"}) {
      c.extended = c.extended || v.given(name);
    }
  }
}

Result<SnapshotRequest> parse_snapshot_request(std::string_view json) {
  VMMD_ASSIGN(auto request, read_json<SnapshotRequest>(json));
  VMMD_TRY(check_url("/destination_url", request.destination_url));
  VMMD_TRY(check_labels(request.labels));
  return request;
}

Result<RestoreRequest> parse_restore_request(std::string_view json) {
  VMMD_ASSIGN(auto body, read_json<RestoreBody>(json));
  VMMD_TRY(check_url("/source_url", body.request.source_url));
  if (body.memory_mode) {
    auto mode = memory_mode_from_name(*body.memory_mode);
    if (!mode) return blame_field("/memory_restore_mode", mode.error());
    body.request.memory_mode = *mode;
  }
  const auto unbuilt = [](std::string_view field) {
    return fail(ErrorCode::NotSupported, "/{}: not built yet", field);
  };
  std::size_t fds = 0;
  for (const NetFdCount& net : body.net_fds) {
    fds += net.num_fds;
    if (fds > kMaxPassedFds)
      return fail(ErrorCode::BadRequest, "/net_fds: more than {} descriptors", kMaxPassedFds);
    body.request.net_fds.push_back({net.id, std::vector<std::int32_t>(net.num_fds, -1)});
  }
  if (!body.vfio_fds.empty()) return unbuilt("vfio_fds");
  if (body.iommufd_fd) return unbuilt("iommufd_fd");
  if (!body.zone_updates.empty()) return unbuilt("zone_updates");
  body.request.overrides = std::move(body.overrides.text);
  return std::move(body.request);
}

Result<std::string> parse_cancel_request(std::string_view json) {
  VMMD_ASSIGN(auto request, read_json<CancelRequest>(json));
  if (request.id.empty() || request.id.size() > kMaxJobId) {
    return fail(ErrorCode::BadRequest, "/id: a job's id has 1 to {} bytes", kMaxJobId);
  }
  return std::move(request.id);
}

Result<ResizeRequest> parse_resize_request(std::string_view json) {
  VMMD_ASSIGN(const auto body, read_json<ResizeBody>(json));
  if (body.desired_vcpus)
    return fail(ErrorCode::NotSupported, "/desired_vcpus: hot-plug of vCPUs is not built yet");
  if (body.desired_ram)
    return fail(ErrorCode::NotSupported, "/desired_ram: hot-plug of memory is not built yet");
  return ResizeRequest{body.desired_balloon};
}

Result<ResizeDiskRequest> parse_resize_disk_request(std::string_view json) {
  return read_json<ResizeDiskRequest>(json);
}

std::string to_json(const SnapshotRequest& request) {
  nlohmann::ordered_json out;
  JsonWriter writer(out);
  writer("destination_url", request.destination_url);
  SnapshotRequest plain;
  plain.destination_url = request.destination_url;
  const bool ours = request.extended || request.mode != plain.mode || request.pause != plain.pause ||
                    request.resume != plain.resume || !request.labels.empty() ||
                    request.cancel_on_disconnect != plain.cancel_on_disconnect;
  if (ours) extension_fields(writer, request);
  return json_text(out, /*pretty=*/false);
}

std::string to_json(const RestoreRequest& request) {
  nlohmann::ordered_json out;
  JsonWriter writer(out);
  const RestoreRequest plain;
  const auto write = [&](std::string_view name, const auto& value, const auto& usual) {
    if (value != usual) writer(name, value);
  };
  writer("source_url", request.source_url);
  write("memory_restore_mode", request.memory_mode, plain.memory_mode);
  write("prefault", request.prefault, plain.prefault);
  write("resume", request.resume, plain.resume);
  write("verify", request.verify, plain.verify);
  write("cpu_check", request.cpu_check, plain.cpu_check);
  write("identity", request.identity, plain.identity);
  write("clock", request.clock, plain.clock);
  write("memory_size", request.memory_size, plain.memory_size);
  write("vcpus", request.vcpus, plain.vcpus);
  if (!request.net_fds.empty()) {
    std::vector<NetFdCount> counts;
    counts.reserve(request.net_fds.size());
    for (const NetFds& net : request.net_fds)
      counts.push_back({net.id, static_cast<std::uint32_t>(net.fds.size())});
    writer("net_fds", counts);
  }
  if (!request.overrides.empty()) {
    // What is not JSON goes as a string: the daemon then says where the mistake is.
    auto overrides = nlohmann::ordered_json::parse(request.overrides, nullptr, /*allow_exceptions=*/false);
    if (overrides.is_discarded()) overrides = request.overrides;
    out["overrides"] = std::move(overrides);
  }
  return json_text(out, /*pretty=*/false);
}

std::string to_json(const ResizeDiskRequest& request) {
  nlohmann::ordered_json out;
  JsonWriter writer(out);
  writer("id", request.id);
  writer("desired_size", request.desired_size);
  return json_text(out, /*pretty=*/false);
}

std::string resize_request_json(const ResizeRequest& request, std::optional<std::uint64_t> vcpus,
                                std::optional<std::uint64_t> ram) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  if (vcpus) out["desired_vcpus"] = *vcpus;
  if (ram) out["desired_ram"] = *ram;
  if (request.desired_balloon) out["desired_balloon"] = *request.desired_balloon;
  return json_text(out, /*pretty=*/false);
}

std::string cancel_request_json(std::string_view job_id) {
  nlohmann::ordered_json out;
  JsonWriter writer(out);
  writer("id", job_id);
  return json_text(out, /*pretty=*/false);
}

}  // namespace vmmd::api
