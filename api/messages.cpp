#include "api/messages.h"

#include <utility>

#include <nlohmann/json.hpp>

#include "api/config_device_fields.h"
#include "api/config_fields.h"
#include "api/json_writer.h"

namespace vmmd::api {

using nlohmann::ordered_json;

namespace {

constexpr std::size_t kMaxErrorMessages = 64;

template <class T>
std::string write(const T& value) {
  ordered_json out;
  JsonWriter writer(out);
  fields(writer, value);
  return json_text(out, /*pretty=*/false);
}

}  // namespace

constexpr auto enum_names(VmState) {
  using enum VmState;
  return std::to_array<EnumName<VmState>>(
      {{"Created", Created}, {"Running", Running}, {"Paused", Paused}, {"Shutdown", Shutdown}});
}

template <class V>
void fields(V& v, const PingResponse& c) {
  v("build_version", c.build_version);
  v("version", c.version);
  v("pid", c.pid);
  v("features", c.features);
}

template <class V>
void fields(V& v, const JobStatus& c) {
  v("id", c.id);
  v("kind", c.kind);
  v("phase", c.phase);
  v("bytes_done", c.bytes_done);
  v("bytes_total", c.bytes_total);
  v("seconds", c.seconds);
}

template <class V>
void fields(V& v, const GuestRange& c) {
  v("guest_address", c.guest_address);
  v("length", c.length);
}

constexpr auto enum_names(MemoryCheck::State) {
  using enum MemoryCheck::State;
  return std::to_array<EnumName<MemoryCheck::State>>(
      {{"running", Running}, {"intact", Intact}, {"damaged", Damaged}, {"failed", Failed}});
}

template <class V>
void fields(V& v, const MemoryCheck& c) {
  v("state", c.state);
  v("damaged_bytes", c.damaged_bytes);
  v("damaged", c.damaged);
}

template <class V>
void fields(V& v, const VmInfo& c) {
  v("config", c.config);
  v("state", c.state);
  v("memory_actual_size", c.memory_actual_size);
  // Cloud Hypervisor's clients expect it; nothing of ours is hot-pluggable yet.
  v("device_tree", std::map<std::string, std::string>());
  v("jobs", c.jobs);
  v("full_disks", c.full_disks);
  v("memory_check", c.memory_check);
}

template <class V>
void fields(V& v, const SnapshotResult& c) {
  v("snapshot_id", c.snapshot_id);
  v("mode", c.mode);
  v("memory_bytes_written", c.memory_bytes_written);
  v("memory_digests", c.memory_digests);
}

std::string to_json(const PingResponse& ping) {
  return write(ping);
}
std::string to_json(const VmInfo& info) {
  return write(info);
}
std::string to_json(const SnapshotResult& result) {
  return write(result);
}

std::string to_json(const Counters& counters) {
  ordered_json out;
  JsonWriter writer(out);
  for (const auto& [device, values] : counters) writer(device, values);
  return json_text(out, /*pretty=*/false);
}

std::string to_json(const Error& error) {
  ordered_json out = ordered_json::array();
  for (const std::string& message : error.messages) out.push_back(message);
  return json_text(out, /*pretty=*/false);
}

Error error_from_json(unsigned http_status, std::string_view body) {
  Error error{static_cast<ErrorCode>(http_status), {}};
  const auto json = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (json.is_array()) {
    for (const auto& message : json) {
      if (message.is_string() && error.messages.size() < kMaxErrorMessages) {
        error.messages.push_back(message.get<std::string>());
      }
    }
  }
  if (error.messages.empty()) {
    error.messages.push_back(body.empty() ? "HTTP status " + std::to_string(http_status) : std::string(body));
  }
  return error;
}

}  // namespace vmmd::api
