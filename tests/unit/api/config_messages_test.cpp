#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "api/config_json.h"
#include "api/messages.h"
#include "tests/unit/api/config_samples.h"

using namespace vmmd;
using namespace vmmd::api;
using nlohmann::json;

TEST_CASE("Cloud Hypervisor's plain snapshot body asks for its plain answer") {
  const auto request = parse_snapshot_request(R"({"destination_url": "file:///snap"})");
  REQUIRE(request);
  CHECK(request->destination_url == "file:///snap");
  CHECK_FALSE(request->extended);
  CHECK_FALSE(request->pause);
}

TEST_CASE("a snapshot request has fields of ours") {
  const auto request = parse_snapshot_request(
      R"({"destination_url": "file:///snap", "mode": "link", "pause": true, "resume": true,
          "cancel_on_disconnect": true, "labels": {"a": "1", "b": "2"}})");
  REQUIRE(request);
  CHECK(request->extended);
  CHECK(request->mode == SnapshotRequest::Mode::Link);
  CHECK(request->pause);
  CHECK(request->resume);
  CHECK(request->cancel_on_disconnect);
  CHECK(request->labels == std::map<std::string, std::string>{{"a", "1"}, {"b", "2"}});
}

TEST_CASE("one field of ours, even with its default, makes the answer ours") {
  const auto request = parse_snapshot_request(R"({"destination_url": "file:///snap", "resume": false})");
  REQUIRE(request);
  CHECK(request->extended);
}

TEST_CASE("snapshot requests are strict") {
  const auto message = [](const char* text) {
    const auto request = parse_snapshot_request(text);
    return request ? std::string("accepted") : request.error().to_string();
  };
  CHECK(message("{}") == "/destination_url: missing");
  CHECK(message(R"({"destination_url": "tcp://host"})") ==
        "/destination_url: \"tcp://host\" is not a file URL: write file:///absolute/directory");
  CHECK(message(R"({"destination_url": "file:///s", "mode": "Copy"})") ==
        R"(/mode: "Copy" is none of "auto", "copy", "link", "reflink")");
  CHECK(message(R"({"destination_url": "file:///s", "modes": "copy"})") ==
        "/modes: unknown field; did you mean \"mode\"?");
  CHECK(message(R"({"destination_url": "file:///s", "labels": {"a": 1}})") ==
        "/labels/a: expected a string, got a number");
  CHECK(message(R"({"destination_url": "file:///s", "labels": {"": "x"}})") ==
        "/labels/: a label's name has 1 to 128 bytes, not 0");
}

TEST_CASE("labels that no manifest can hold are refused by their pointers, all of them") {
  const auto refusal = [](const json& labels) {
    const auto request =
        parse_snapshot_request(json{{"destination_url", "file:///s"}, {"labels", labels}}.dump());
    REQUIRE_FALSE(request);
    CHECK(request.error().code == ErrorCode::BadRequest);
    return request.error().messages;
  };
  using Messages = std::vector<std::string>;
  CHECK(refusal({{"a\nb", "x"}, {"c/d\x7f", "x"}}) ==
        Messages{"/labels/a?b: a label's name has no control characters (\"?\" here)",
                 "/labels/c~1d?: a label's name has no control characters (\"?\" here)"});
  CHECK(refusal({{std::string(129, 'n'), "x"}, {"v", std::string(4097, 'v')}}) ==
        Messages{"/labels/" + std::string(64, 'n') + ": a label's name has 1 to 128 bytes, not 129",
                 "/labels/v: a label's value has up to 4096 bytes, not 4097"});
  CHECK(parse_snapshot_request(
      json{{"destination_url", "file:///s"},
           {"labels", {{std::string(128, 'n'), std::string(4096, 'v')}, {"text", "two\nlines"}}}}
          .dump()));
}

TEST_CASE("a relative path over the socket is refused as what it is") {
  const auto request = parse_restore_request(R"({"source_url": "snap"})");
  REQUIRE_FALSE(request);
  CHECK(request.error().to_string() ==
        "/source_url: \"snap\" is a relative path: write file:///absolute/directory");
  CHECK(parse_snapshot_request(R"({"destination_url": "file://snap"})").error().to_string() ==
        "/destination_url: \"file://snap\" is a relative path: write file:///absolute/directory");
}

TEST_CASE("there are at most 64 labels") {
  json body = {{"destination_url", "file:///s"}};
  for (int i = 0; i < 64; ++i) body["labels"]["label" + std::to_string(i)] = "x";
  CHECK(parse_snapshot_request(body.dump()));
  body["labels"]["one more"] = "x";
  CHECK_FALSE(parse_snapshot_request(body.dump()));
}

TEST_CASE("a snapshot request survives the way from client to server") {
  SnapshotRequest request;
  request.destination_url = "file:///snap";
  CHECK(to_json(request) == R"({"destination_url":"file:///snap"})");
  request.mode = SnapshotRequest::Mode::Reflink;
  request.pause = true;
  request.labels = {{"k", "v"}};
  const auto again = parse_snapshot_request(to_json(request));
  REQUIRE(again);
  CHECK(again->mode == SnapshotRequest::Mode::Reflink);
  CHECK(again->pause);
  CHECK_FALSE(again->resume);
  CHECK(again->labels == request.labels);
}

TEST_CASE("a restore request needs a directory only") {
  const auto request = parse_restore_request(R"({"source_url": "file:///snap"})");
  REQUIRE(request);
  CHECK(request->memory_mode == RestoreRequest::MemoryMode::Cow);
  CHECK_FALSE(request->resume);
  CHECK(request->overrides.empty());
  CHECK_FALSE(request->memory_size);
}

TEST_CASE("a restore request has fields of ours") {
  const auto request = parse_restore_request(
      R"({"source_url": "file:///snap", "memory_restore_mode": "copy", "prefault": true, "resume": true,
          "verify": "full", "cpu_check": "ignore", "identity": "keep", "clock": "continue",
          "memory_size": 268435456, "vcpus": 4, "overrides": {"serial": {"mode": "Null"}}})");
  REQUIRE(request);
  CHECK(request->memory_mode == RestoreRequest::MemoryMode::Copy);
  CHECK(request->prefault);
  CHECK(request->resume);
  CHECK(request->verify == RestoreRequest::Verify::Full);
  CHECK(request->cpu_check == RestoreRequest::CpuCheck::Ignore);
  CHECK(request->identity == RestoreRequest::Identity::Keep);
  CHECK(request->clock == RestoreRequest::ClockMode::Continue);
  CHECK(request->memory_size == 268435456);
  CHECK(request->vcpus == 4);
  CHECK(json::parse(request->overrides) == json{{"serial", {{"mode", "Null"}}}});
}

TEST_CASE("memory restore modes have Cloud Hypervisor's names and ours") {
  const auto mode = [](const std::string& name) {
    return parse_restore_request(R"({"source_url": "file:///s", "memory_restore_mode": ")" + name + "\"}");
  };
  for (const char* name : {"CopyOnWrite", "cow"})
    CHECK(mode(name)->memory_mode == RestoreRequest::MemoryMode::Cow);
  for (const char* name : {"Copy", "copy"})
    CHECK(mode(name)->memory_mode == RestoreRequest::MemoryMode::Copy);
  for (const char* name : {"Shared", "shared"}) {
    CHECK(mode(name)->memory_mode == RestoreRequest::MemoryMode::Shared);
  }
  CHECK(mode("OnDemand").error().code == ErrorCode::NotSupported);
  CHECK(mode("lazy").error().code == ErrorCode::BadRequest);
  CHECK(mode("").error().code == ErrorCode::BadRequest);
}

TEST_CASE("restore fields of Cloud Hypervisor that are not built are 501 unless they ask for nothing") {
  const auto code = [](const char* field) {
    const auto request = parse_restore_request(std::string(R"({"source_url": "file:///s", )") + field + "}");
    return request ? ErrorCode(200) : request.error().code;
  };
  CHECK(code(R"("net_fds": [])") == ErrorCode(200));
  CHECK(code(R"("net_fds": null)") == ErrorCode(200));
  CHECK(code(R"("net_fds": [{"id": "n", "num_fds": 2}])") == ErrorCode(200));
  CHECK(code(R"("net_fds": [{"id": "n", "num_fds": 0}])") == ErrorCode::BadRequest);
  CHECK(code(R"("net_fds": [{"id": "n", "num_fds": 253}])") == ErrorCode(200));
  CHECK(code(R"("net_fds": [{"id": "n", "num_fds": 253}, {"id": "m", "num_fds": 1}])") ==
        ErrorCode::BadRequest);
  CHECK(code(R"("vfio_fds": [{"id": "v"}])") == ErrorCode::NotSupported);
  CHECK(code(R"("iommufd_fd": 3)") == ErrorCode::NotSupported);
  CHECK(code(R"("zone_updates": [{"id": "z", "host_numa_node": 1}])") == ErrorCode::NotSupported);
  CHECK(code(R"("net_fds": [{"id": "n"}])") == ErrorCode::BadRequest);
  CHECK(code(R"("vcpus": 0)") == ErrorCode::BadRequest);
  CHECK(code(R"("overrides": "text")") == ErrorCode::BadRequest);
  CHECK(code(R"("nope": 1)") == ErrorCode::BadRequest);
}

TEST_CASE("a restore request survives the way from client to server") {
  RestoreRequest request;
  request.source_url = "file:///snap";
  CHECK(to_json(request) == R"({"source_url":"file:///snap"})");
  request.memory_mode = RestoreRequest::MemoryMode::Copy;
  request.resume = true;
  request.verify = RestoreRequest::Verify::Lazy;
  request.vcpus = 3;
  request.overrides = R"({"net": [{"id": "n", "tap": "t"}]})";
  const auto again = parse_restore_request(to_json(request));
  REQUIRE(again);
  CHECK(again->memory_mode == RestoreRequest::MemoryMode::Copy);
  CHECK(again->resume);
  CHECK(again->verify == RestoreRequest::Verify::Lazy);
  CHECK(again->vcpus == 3);
  CHECK(json::parse(again->overrides) == json::parse(request.overrides));
}

TEST_CASE("overrides that are not JSON reach the daemon, which refuses them") {
  RestoreRequest request;
  request.source_url = "file:///snap";
  request.overrides = "{oops";
  const auto again = parse_restore_request(to_json(request));
  REQUIRE_FALSE(again);
  CHECK(again.error().to_string() == "/overrides: expected an object, got a string");
}

TEST_CASE("resize-disk names a disk and its size") {
  const auto request = parse_resize_disk_request(R"({"id": "root", "desired_size": 21474836480})");
  REQUIRE(request);
  CHECK(request->id == "root");
  CHECK(request->desired_size == 21474836480);
  CHECK(to_json(*request) == R"({"id":"root","desired_size":21474836480})");
  CHECK(parse_resize_disk_request(R"({"id": "root"})").error().code == ErrorCode::BadRequest);
  CHECK(parse_resize_disk_request(R"({"desired_size": 1})").error().code == ErrorCode::BadRequest);
}

TEST_CASE("resize takes the balloon's size; vCPUs and RAM are known and not built") {
  CHECK(parse_resize_request(R"({"desired_balloon": 268435456})")->desired_balloon == 268435456);
  CHECK(parse_resize_request("{}")->desired_balloon == std::nullopt);
  const auto vcpus = parse_resize_request(R"({"desired_vcpus": 2, "desired_balloon": 1})");
  CHECK(vcpus.error().code == ErrorCode::NotSupported);
  CHECK(vcpus.error().to_string() == "/desired_vcpus: hot-plug of vCPUs is not built yet");
  CHECK(parse_resize_request(R"({"desired_ram": 2})").error().code == ErrorCode::NotSupported);
  CHECK(parse_resize_request(R"({"desired_balloon": -1})").error().code == ErrorCode::BadRequest);
  CHECK(parse_resize_request(R"({"balloon": 1})").error().code == ErrorCode::BadRequest);
  CHECK(resize_request_json({0x1000}, 2, {}) == R"({"desired_vcpus":2,"desired_balloon":4096})");
}

TEST_CASE("cancel names a job") {
  CHECK(*parse_cancel_request(cancel_request_json("snapshot-7")) == "snapshot-7");
  CHECK(parse_cancel_request("{}").error().to_string() == "/id: missing");
  CHECK_FALSE(parse_cancel_request(R"({"id": ""})"));
  CHECK_FALSE(parse_cancel_request(R"({"id": "a", "job": 1})"));
}

TEST_CASE("vm.info has Cloud Hypervisor's shape, and the jobs") {
  VmInfo info;
  info.config = *parse_vm_config(samples::kFull);
  info.state = VmState::Paused;
  info.memory_actual_size = 0x1'2345'6000;
  info.jobs = {{"snapshot-1", "snapshot", "memory", 10, 20, 1.5}};
  const json out = json::parse(to_json(info));
  CHECK(out["config"] == json::parse(samples::kFull));
  CHECK(out["state"] == "Paused");
  CHECK(out["memory_actual_size"] == 0x1'2345'6000);
  CHECK(out["device_tree"] == json::object());
  CHECK(out["jobs"] == json::parse(R"([{"id": "snapshot-1", "kind": "snapshot", "phase": "memory",
                                        "bytes_done": 10, "bytes_total": 20, "seconds": 1.5}])"));
}

TEST_CASE("vm.info says what the check behind a lazily verified restore found") {
  VmInfo info;
  info.config = *parse_vm_config(samples::kFull);
  CHECK_FALSE(json::parse(to_json(info)).contains("memory_check"));
  info.memory_check = {MemoryCheck::State::Damaged, 0x20'0000, {{0x1'0000'0000, 0x20'0000}}};
  CHECK(json::parse(to_json(info))["memory_check"] == json::parse(R"({"state": "damaged",
      "damaged_bytes": 2097152, "damaged": [{"guest_address": 4294967296, "length": 2097152}]})"));
}

TEST_CASE("counters, ping and snapshot results are plain objects") {
  CHECK(to_json(Counters{}) == "{}");
  CHECK(to_json(Counters{{"serial0", {{"rx", 1}, {"tx", -2}}}, {"vcpu0", {}}}) ==
        R"({"serial0":{"rx":1,"tx":-2},"vcpu0":{}})");
  CHECK(to_json(PingResponse{"vmmd v1", "1", 42, {"a", "b"}}) ==
        R"({"build_version":"vmmd v1","version":"1","pid":42,"features":["a","b"]})");
  CHECK(to_json(SnapshotResult{"uuid", "copy", 4096, true}) ==
        R"({"snapshot_id":"uuid","mode":"copy","memory_bytes_written":4096,"memory_digests":true})");
}

TEST_CASE("an error travels as a list of messages and comes back as it was") {
  const Error error{ErrorCode::Conflict, {"outer", "inner \"quoted\""}};
  CHECK(to_json(error) == R"(["outer","inner \"quoted\""])");
  const Error again = error_from_json(409, to_json(error));
  CHECK(again.code == ErrorCode::Conflict);
  CHECK(again.messages == error.messages);
}

TEST_CASE("an error body of another shape is still an error with a message") {
  CHECK(error_from_json(503, "busy").messages == std::vector<std::string>{"busy"});
  CHECK(error_from_json(500, "").messages == std::vector<std::string>{"HTTP status 500"});
  CHECK(error_from_json(500, "[1]").messages == std::vector<std::string>{"[1]"});
}
