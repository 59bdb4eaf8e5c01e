#include "api/overrides.h"

#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tests/unit/support/temp_dir.h"

using namespace vmmd;
using namespace vmmd::api;

namespace {

constexpr std::string_view kOnSocket =
    R"({"cpus": {"boot_vcpus": 2, "max_vcpus": 2}, "payload": {"kernel": "/no/such/kernel"},
        "serial": {"mode": "Socket", "socket": "/tmp/saved.sock"}, "console": {"mode": "Pty"},
        "debug_console": {"mode": "Pty"}})";

/// The configuration, or all that is wrong with it.
Result<VmConfig> restored(std::string_view sealed, std::string_view overrides) {
  std::vector<ConfigProblem> problems;
  auto config = restored_config(sealed, overrides, problems);
  if (problems.empty()) return std::move(*config);
  Error error{ErrorCode::BadRequest, {}};
  for (const ConfigProblem& problem : problems) error.messages.push_back(problem.text);
  error.side_by_side = error.messages.size();
  return tl::make_unexpected(std::move(error));
}

std::string refusal(std::string_view overrides) {
  const auto config = restored(kOnSocket, overrides);
  REQUIRE_FALSE(config);
  return config.error().to_string();
}

}  // namespace

TEST_CASE("without overrides a clone has the configuration of the snapshot, whose kernel it does not need") {
  const auto config = restored(kOnSocket, "");
  REQUIRE(config);
  CHECK(config->serial.mode == ConsoleMode::Socket);
  CHECK(config->serial.socket == "/tmp/saved.sock");
  CHECK(config->payload.kernel == "/no/such/kernel");
}

TEST_CASE("a path alone replaces the path") {
  const auto config = restored(kOnSocket, R"({"serial": {"socket": "/tmp/clone.sock"}})");
  REQUIRE(config);
  CHECK(config->serial.mode == ConsoleMode::Socket);
  CHECK(config->serial.socket == "/tmp/clone.sock");
}

TEST_CASE("a new mode of the serial port does not trip over the old mode's path") {
  const auto file = restored(kOnSocket, R"({"serial": {"mode": "File", "file": "/tmp/clone.log"}})");
  REQUIRE(file);
  CHECK(file->serial.file == "/tmp/clone.log");
  CHECK_FALSE(file->serial.socket);
  const auto none = restored(kOnSocket, R"({"serial": {"mode": "Null"}})");
  REQUIRE(none);
  CHECK_FALSE(none->serial.socket);
}

TEST_CASE("a path that the new mode has no use for is still a mistake") {
  CHECK(refusal(R"({"serial": {"mode": "Null", "socket": "/tmp/clone.sock"}})").find("/serial/socket") !=
        std::string::npos);
}

TEST_CASE("the memory file of the saved VM is not the clone's") {
  const auto config = restored(R"({"payload": {}, "memory": {"size": 2097152, "file": "/no/such/ram"}})",
                               R"({"serial": {"mode": "Pty"}})");
  REQUIRE(config);
  CHECK_FALSE(config->memory.file);
}

TEST_CASE("what the guest would see is refused, each by name") {
  const std::string message = refusal(R"({"cpus": {"boot_vcpus": 1}, "memory": {"size": 4194304}})");
  CHECK(message.find("/cpus/boot_vcpus: the guest would see this change") != std::string::npos);
  CHECK(message.find("/memory/size: the guest would see this change") != std::string::npos);
}

TEST_CASE("overrides that are no object, or have unknown names, are refused") {
  CHECK(refusal("[]") == "overrides: expected an object");
  CHECK(refusal(R"({"seriel": {}})").find("did you mean \"serial\"") != std::string::npos);
}

TEST_CASE("every host-side field may be overridden") {
  constexpr std::string_view kPatches[] = {
      R"({"cpus": {"affinity": [{"vcpu": 1, "host_cpus": [0]}]}})",
      R"({"cpus": {"core_scheduling": "Off"}})",
      R"({"memory": {"shared": true}})",
      R"({"memory": {"prefault": true}})",
      R"({"memory": {"reserve": true}})",
      R"({"memory": {"thp": false}})",
      R"({"memory": {"mergeable": true}})",
      R"({"memory": {"file": "/tmp/clone.ram"}})",
      R"({"payload": {"kernel": "/another/kernel", "cmdline": "quiet"}})",
      R"({"serial": {"mode": "Pty"}})",
      R"({"console": {"mode": "Null"}})",
      R"({"debug_console": {"mode": "Null"}})",
      R"({"rng": {"src": "/dev/urandom"}})",
  };
  for (const std::string_view patch : kPatches) {
    CAPTURE(patch);
    const auto config = restored(kOnSocket, patch);
    if (!config) FAIL_CHECK(config.error().to_string());
  }
}

TEST_CASE("how much a device may use of the host is host-side") {
  const testing::TempDir dir;
  std::ofstream(dir / "image") << std::string(512, 'd');
  const std::string devices = R"({"payload": {}, "disks": [{"path": ")" + (dir / "image") + R"(",
                                   "id": "d", "rate_limit_group": "g"}],
      "net": [{"tap": "t", "id": "n"}],
      "rate_limit_groups": [{"id": "g", "rate_limiter_config": {"ops": {"size": 7, "refill_time": 100}}}]})";
  constexpr std::string_view kLimit =
      R"("rate_limiter_config": {"bandwidth": {"size": 9, "refill_time": 50}})";
  const auto changed = [&](const std::string& patch) {
    CAPTURE(patch);
    auto config = restored(devices, patch);
    if (!config) FAIL(config.error().to_string());
    return std::move(*config);
  };
  const std::string limit(kLimit);
  const TokenBucket want{9, std::nullopt, 50};
  CHECK(changed(R"({"net": [{"id": "n", )" + limit + "}]}").net[0].rate_limiter_config->bandwidth == want);
  const auto own = changed(R"({"disks": [{"id": "d", "rate_limit_group": null, )" + limit + "}]}");
  CHECK(own.disks[0].rate_limiter_config->bandwidth == want);
  const auto group = changed(R"({"rate_limit_groups": [{"id": "g", )" + limit + "}]}");
  CHECK(group.rate_limit_groups[0].rate_limiter_config.bandwidth == want);
  CHECK(group.rate_limit_groups[0].rate_limiter_config.ops == TokenBucket{7, std::nullopt, 100});
  const auto other = changed(R"({"disks": [{"id": "d", "rate_limit_group": "h"}],
                                 "rate_limit_groups": [{"id": "h", )" +
                             limit + "}]}");
  CHECK(other.rate_limit_groups.size() == 2);
  const auto bound =
      changed(R"({"disks": [{"id": "d", "queue_affinity": [{"queue_index": 0, "host_cpus": [0]}]}]})");
  CHECK(bound.disks[0].queue_affinity.size() == 1);
}

TEST_CASE("every field that the guest would see is refused by its pointer") {
  constexpr std::pair<std::string_view, std::string_view> kPatches[] = {
      {R"({"cpus": {"max_vcpus": 3}})", "/cpus/max_vcpus"},
      {R"({"cpus": {"max_phys_bits": 44}})", "/cpus/max_phys_bits"},
      {R"({"cpus": {"nested": false}})", "/cpus/nested"},
      {R"({"cpus": {"topology": {"threads_per_core": 1, "cores_per_die": 2, "dies_per_package": 1,
                                 "packages": 1}}})",
       "/cpus/topology"},
      {R"({"memory": {"size": 1073741824}})", "/memory/size"},
      {R"({"debug_console": {"iobase": 1026}})", "/debug_console/iobase"},
      {R"({"disks": [{"path": "/d", "id": "d"}]})", "/disks"},
      {R"({"net": [{"tap": "tap0", "id": "n"}]})", "/net"},
      {R"({"vsock": {"cid": 3, "socket": "/s"}})", "/vsock"},
      {R"({"watchdog": true})", "/watchdog"},
      {R"({"iommu": true})", "/iommu"},
      {R"({"platform": {"pc": true}})", "/platform/pc"},
  };
  for (const auto& [patch, pointer] : kPatches) {
    CAPTURE(patch);
    const std::string message = refusal(patch);
    CAPTURE(message);
    CHECK(message.find(pointer) != std::string::npos);
    CHECK(message.find("the guest would see this change") != std::string::npos);
  }
}

TEST_CASE("lists merge by id: a path of one disk may change, no disk may come, go or change its shape") {
  constexpr std::string_view kDisks =
      R"({"payload": {}, "disks": [{"id": "a", "path": "/a"}, {"id": "b", "path": "/b", "readonly": true}]})";
  const auto message = [&](std::string_view patch) {
    const auto config = restored(kDisks, patch);
    return config ? std::string("taken") : config.error().to_string();
  };
  const std::string seen = "the guest would see this change";
  // Disks are not built yet: a path that is taken ends at that.
  CHECK(message(R"({"disks": [{"id": "b", "path": "/elsewhere"}]})").find(seen) == std::string::npos);
  CHECK(message(R"({"disks": [{"id": "b", "readonly": false}]})").find("/disks/1/readonly") !=
        std::string::npos);
  CHECK(message(R"({"disks": [{"id": "c", "path": "/c"}]})").find("the guest would see it come") !=
        std::string::npos);
  CHECK(message(R"({"disks": null})").find(seen) != std::string::npos);
  CHECK(message(R"({"disks": []})").find(seen) != std::string::npos);
}

TEST_CASE("an element that names none of a list's is told which there are") {
  const testing::TempDir dir;
  for (const char* name : {"root", "data"}) std::ofstream(dir / name) << std::string(512, 'd');
  const std::string sealed = fmt::format(
      R"({{"payload": {{}}, "disks": [{{"id": "root", "path": "{}"}}, {{"id": "data", "path": "{}"}}]}})",
      dir / "root", dir / "data");
  const auto message = [&](std::string_view patch) {
    const auto config = restored(sealed, patch);
    return config ? std::string("taken") : config.error().to_string();
  };
  const std::string no_id = R"(it has no id: lists merge by id, so say which of "root", "data" is meant)";
  CHECK(message(R"({"disks": [{"path": "/x"}]})") == "overrides: /disks/0: " + no_id);
  CHECK(message(R"({"disks": [{"id": "root", "direct": false}, {"id": 7}]})") ==
        "overrides: /disks/1: " + no_id);
  CHECK(message(R"({"disks": ["root"]})") == "overrides: /disks/0: " + no_id);
  CHECK(
      message(R"({"disks": [{"id": "rot", "path": "/x"}]})") ==
      R"(overrides: /disks/0: the VM has no "rot" there, and the guest would see it come: its ids are "root", )"
      R"("data"; did you mean "root"?)");
}

TEST_CASE("what is wrong with an override does not hide the rest, and leaves no trace in it") {
  std::vector<ConfigProblem> problems;
  const auto pointers = [&] {
    std::vector<std::string> found;
    for (const ConfigProblem& problem : problems) found.push_back(problem.pointer);
    return found;
  };
  using Pointers = std::vector<std::string>;
  SUBCASE("a change that the guest would see, beside what this host lacks") {
    const auto config = restored_config(
        kOnSocket, R"({"cpus": {"max_vcpus": 1}, "serial": {"socket": "/no/such/directory/s"}})", problems);
    REQUIRE(config);
    CHECK(pointers() == Pointers{"/cpus/max_vcpus", "/serial/socket"});
    CHECK(config->cpus.max_vcpus == 2);
    CHECK(config->serial.socket == "/no/such/directory/s");
  }
  SUBCASE("a value of another type, and an unknown field") {
    const auto config = restored_config(
        kOnSocket, R"({"memory": {"thp": 7}, "seriel": {}, "rng": {"src": "/dev/urandom"}})", problems);
    REQUIRE(config);
    CHECK(pointers() == Pointers{"/memory/thp", "/seriel"});
    CHECK(config->memory.thp == VmConfig().memory.thp);
    CHECK(config->rng.src == "/dev/urandom");
  }
  SUBCASE("the path of a mode that cannot be") {
    const auto config = restored_config(kOnSocket, R"({"serial": {"mode": "Off"}})", problems);
    REQUIRE(config);
    CHECK(pointers() == Pointers{"/serial/mode"});
    CHECK(config->serial.mode == ConsoleMode::Socket);
    CHECK(config->serial.socket == "/tmp/saved.sock");
  }
  SUBCASE("overrides that are no JSON") {
    const auto config = restored_config(
        R"({"payload": {}, "serial": {"mode": "Socket", "socket": "/no/such/s"}})", "{oops", problems);
    REQUIRE(config);
    CHECK(problems.size() == 2);
    CHECK(problems.back().pointer == "/serial/socket");
  }
  SUBCASE("a config.json that cannot be understood") {
    CHECK_FALSE(restored_config(R"({"payload": {}, "memory": 5, "x": 1})", "", problems));
    CHECK(pointers() == Pointers{"/memory", "/x"});
  }
}

TEST_CASE("null gives an optional field back its absence") {
  const auto config =
      restored(R"({"payload": {"kernel": "/k", "cmdline": "quiet"}})", R"({"payload": {"cmdline": null}})");
  REQUIRE(config);
  CHECK(config->payload.kernel == "/k");
  CHECK_FALSE(config->payload.cmdline);
}

TEST_CASE("a memory file of the clone's own is taken from the overrides") {
  const auto config = restored(R"({"payload": {}, "memory": {"size": 2097152, "file": "/no/such/ram"}})",
                               R"({"memory": {"file": "/tmp/clone.ram"}})");
  REQUIRE(config);
  CHECK(config->memory.file == "/tmp/clone.ram");
}

TEST_CASE("a console neither comes nor goes by its mode") {
  for (const std::string_view console : {"serial", "console", "debug_console"}) {
    const auto patch = [&](std::string_view mode) {
      return fmt::format(R"({{"{}": {{"mode": "{}"}}}})", console, mode);
    };
    CAPTURE(console);
    CHECK(refusal(patch("Off")).find(fmt::format("/{}/mode: the guest would see the device", console)) !=
          std::string::npos);
    const std::string off = fmt::format(R"({{"payload": {{}}, "{}": {{"mode": "Off"}}}})", console);
    const auto comes = restored(off, patch("Null"));
    REQUIRE_FALSE(comes);
    CHECK(comes.error().to_string().find("the guest would see the device") != std::string::npos);
    CHECK(restored(off, patch("Off")));
  }
}
