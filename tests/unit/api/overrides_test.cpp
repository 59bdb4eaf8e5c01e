#include "api/overrides.h"

#include <doctest/doctest.h>

using namespace vmmd;
using namespace vmmd::api;

namespace {

constexpr std::string_view kOnSocket =
    R"({"cpus": {"boot_vcpus": 2, "max_vcpus": 2}, "payload": {"kernel": "/no/such/kernel"},
        "serial": {"mode": "Socket", "socket": "/tmp/saved.sock"}})";

std::string refusal(std::string_view overrides) {
  const auto config = restored_config(kOnSocket, overrides);
  REQUIRE_FALSE(config);
  return config.error().to_string();
}

}  // namespace

TEST_CASE("without overrides a clone has the configuration of the snapshot, whose kernel it does not need") {
  const auto config = restored_config(kOnSocket, "");
  REQUIRE(config);
  CHECK(config->serial.mode == ConsoleMode::Socket);
  CHECK(config->serial.socket == "/tmp/saved.sock");
  CHECK(config->payload.kernel == "/no/such/kernel");
}

TEST_CASE("a path alone replaces the path") {
  const auto config = restored_config(kOnSocket, R"({"serial": {"socket": "/tmp/clone.sock"}})");
  REQUIRE(config);
  CHECK(config->serial.mode == ConsoleMode::Socket);
  CHECK(config->serial.socket == "/tmp/clone.sock");
}

TEST_CASE("a new mode of the serial port does not trip over the old mode's path") {
  const auto file = restored_config(kOnSocket, R"({"serial": {"mode": "File", "file": "/tmp/clone.log"}})");
  REQUIRE(file);
  CHECK(file->serial.file == "/tmp/clone.log");
  CHECK_FALSE(file->serial.socket);
  const auto none = restored_config(kOnSocket, R"({"serial": {"mode": "Null"}})");
  REQUIRE(none);
  CHECK_FALSE(none->serial.socket);
}

TEST_CASE("a path that the new mode has no use for is still a mistake") {
  CHECK(refusal(R"({"serial": {"mode": "Null", "socket": "/tmp/clone.sock"}})").find("/serial/socket") !=
        std::string::npos);
}

TEST_CASE("the memory file of the saved VM is not the clone's") {
  const auto config =
      restored_config(R"({"payload": {}, "memory": {"size": 2097152, "file": "/no/such/ram"}})",
                      R"({"serial": {"mode": "Off"}})");
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
