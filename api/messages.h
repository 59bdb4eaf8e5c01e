#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/resize_request.h"
#include "api/types.h"
#include "base/result.h"

namespace vmmd::api {

// Bodies of requests and answers other than VmConfig. Requests are read as strictly as parse_vm_config()
// does.

[[nodiscard]] Result<SnapshotRequest> parse_snapshot_request(std::string_view json);
[[nodiscard]] Result<RestoreRequest> parse_restore_request(std::string_view json);
/// PUT vm.cancel `{"id": "snapshot-1"}`: the id.
[[nodiscard]] Result<std::string> parse_cancel_request(std::string_view json);
/// PUT vm.resize; NotSupported for what is not built.
[[nodiscard]] Result<ResizeRequest> parse_resize_request(std::string_view json);
/// PUT vm.resize-disk.
[[nodiscard]] Result<ResizeDiskRequest> parse_resize_disk_request(std::string_view json);

/// What a client sends; fields that have their default are left out, so that Cloud Hypervisor understands it
/// too.
[[nodiscard]] std::string to_json(const SnapshotRequest& request);
[[nodiscard]] std::string to_json(const RestoreRequest& request);
[[nodiscard]] std::string cancel_request_json(std::string_view job_id);
/// With Cloud Hypervisor's other two fields, so that a server which has them gets them.
[[nodiscard]] std::string to_json(const ResizeDiskRequest& request);
[[nodiscard]] std::string resize_request_json(const ResizeRequest& request,
                                              std::optional<std::uint64_t> vcpus,
                                              std::optional<std::uint64_t> ram);

/// GET vmm.ping.
struct PingResponse {
  std::string build_version;  // "vmmd v0.1.0-12-gabcdef"
  std::string version;        // "0.1.0"
  std::int64_t pid = 0;
  std::vector<std::string> features;
};

[[nodiscard]] std::string to_json(const PingResponse& ping);
[[nodiscard]] std::string to_json(const VmInfo& info);
[[nodiscard]] std::string to_json(const Counters& counters);
[[nodiscard]] std::string to_json(const SnapshotResult& result);

/// The body of an error answer: a JSON array of the messages.
[[nodiscard]] std::string to_json(const Error& error);
/// The reverse, for clients. A body of another shape becomes one message; never fails.
[[nodiscard]] Error error_from_json(unsigned http_status, std::string_view body);

}  // namespace vmmd::api
