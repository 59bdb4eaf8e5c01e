#include "api/config_json.h"

#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tests/unit/api/config_samples.h"

using namespace vmmd;
using namespace vmmd::api;
using nlohmann::json;

TEST_CASE("every field of the schema is read and written under its own name") {
  const auto config = parse_vm_config(samples::kFull);
  REQUIRE_MESSAGE(config, config.error().to_string());
  CHECK(json::parse(to_json(*config)) == json::parse(samples::kFull));
}

TEST_CASE("a configuration reads back as the same configuration, compact and pretty") {
  const auto config = parse_vm_config(samples::kFull);
  REQUIRE(config);
  for (const bool pretty : {false, true}) {
    const auto again = parse_vm_config(to_json(*config, pretty));
    REQUIRE(again);
    CHECK(*again == *config);
  }
}

TEST_CASE("only the pretty form has lines") {
  const VmConfig config;
  CHECK(to_json(config).find('\n') == std::string::npos);
  CHECK(to_json(config, true).starts_with("{\n  \"cpus\": {\n    \"boot_vcpus\": 1,"));
}

TEST_CASE("the smallest configuration gets every default of Cloud Hypervisor") {
  const auto config = parse_vm_config(R"({"payload": {"kernel": "/vmlinux"}})");
  REQUIRE(config);
  CHECK(config->cpus.boot_vcpus == 1);
  CHECK(config->cpus.max_phys_bits == 46);
  CHECK(config->cpus.nested);
  CHECK(config->memory.size == 512ULL << 20);
  CHECK(config->memory.thp);
  CHECK(config->serial.mode == ConsoleMode::Null);
  CHECK(config->debug_console.iobase == 0xe9);
  CHECK(config->rng.src == "/dev/urandom");
  CHECK(config->platform.vfio_p2p_dma);
}

TEST_CASE("what is printed has every default filled in, and no field that is not set") {
  const json printed = json::parse(to_json(VmConfig()));
  CHECK(printed["memory"]["size"] == 512ULL << 20);
  CHECK(printed["serial"]["mode"] == "Null");
  CHECK(printed["disks"] == json::array());
  CHECK(printed["watchdog"] == false);
  CHECK_FALSE(printed.contains("vsock"));
  CHECK_FALSE(printed["payload"].contains("initramfs"));
}

TEST_CASE("boot_vcpus or max_vcpus alone stands for both") {
  const auto boot = parse_vm_config(R"({"payload": {}, "cpus": {"boot_vcpus": 3}})");
  REQUIRE(boot);
  CHECK(boot->cpus.max_vcpus == 3);
  const auto max = parse_vm_config(R"({"payload": {}, "cpus": {"max_vcpus": 5}})");
  REQUIRE(max);
  CHECK(max->cpus.boot_vcpus == 5);
  const auto both = parse_vm_config(R"({"payload": {}, "cpus": {"max_vcpus": 5, "boot_vcpus": 2}})");
  REQUIRE(both);
  CHECK(both->cpus.boot_vcpus == 2);
  CHECK(both->cpus.max_vcpus == 5);
}

TEST_CASE("null stands for an optional field, list or platform that is not given") {
  const auto config = parse_vm_config(
      R"({"payload": {"kernel": "/k", "initramfs": null}, "disks": null, "platform": null,
          "cpus": {"boot_vcpus": 1, "max_vcpus": 1, "topology": null, "affinity": null}})");
  REQUIRE_MESSAGE(config, config.error().to_string());
  auto expected = parse_vm_config(R"({"payload": {"kernel": "/k"}})");
  REQUIRE(expected);
  CHECK(*config == *expected);
}

TEST_CASE("64-bit numbers keep their last bit") {
  const auto config = parse_vm_config(R"({"payload": {}, "memory": {"size": 18446744073709551615}})");
  REQUIRE(config);
  CHECK(config->memory.size == 18446744073709551615ULL);
  CHECK(json::parse(to_json(*config))["memory"]["size"] == 18446744073709551615ULL);
}

TEST_CASE("text in any script survives, and a path that is no UTF-8 can still be printed") {
  auto config = parse_vm_config(R"({"payload": {"kernel": "/\u00e9t\u00e9/\ud83d\ude00/k"}})");
  REQUIRE(config);
  CHECK(config->payload.kernel == "/été/😀/k");
  const auto again = parse_vm_config(to_json(*config));
  REQUIRE(again);
  CHECK(*again == *config);
  config->payload.kernel = "/bad\xff";
  CHECK(json::parse(to_json(*config))["payload"]["kernel"] == "/bad\ufffd");
}
