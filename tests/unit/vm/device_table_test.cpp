#include "daemon/vm/device_table.h"

#include <doctest/doctest.h>

namespace vmmd::vm {
namespace {

api::VmConfig networks(unsigned count) {
  api::VmConfig config;
  config.net.resize(count);
  return config;
}

TEST_CASE("devices get the lowest free numbers, and ids if there may be several") {
  api::VmConfig config = networks(3);
  config.net[1].pci.pci_device_id = 1;
  config.net[1].pci.id = "_net0";
  REQUIRE(allot_places(config));
  CHECK(config.net[0].pci.pci_device_id == 2);
  CHECK(config.net[0].pci.id == "_net1");
  CHECK(config.net[1].pci.pci_device_id == 1);
  CHECK(config.net[2].pci.pci_device_id == 3);
  CHECK(config.net[2].pci.id == "_net2");
  CHECK(config.rng.pci.pci_device_id == 4);
  CHECK(config.rng.pci.id == std::nullopt);
}

TEST_CASE("a configuration that has its places keeps them") {
  api::VmConfig config = networks(2);
  REQUIRE(allot_places(config));
  const api::VmConfig before = config;
  REQUIRE(allot_places(config));
  CHECK(config == before);
}

TEST_CASE("a console has a place if there is one, and a balloon; the watchdog's is always the last") {
  api::VmConfig config;
  config.console.mode = api::ConsoleMode::Pty;
  config.balloon.emplace();
  config.watchdog = true;
  REQUIRE(allot_places(config));
  CHECK(config.rng.pci.pci_device_id == 1);
  CHECK(config.console.pci.pci_device_id == 2);
  CHECK(config.balloon->pci.pci_device_id == 3);
  const auto devices = configured_devices(config);
  REQUIRE(devices.size() == 4);
  CHECK(devices.back().slot() == 31);
  config.rng.pci.pci_device_id = 31;
  const Status status = allot_places(config);
  REQUIRE_FALSE(status);
  CHECK(status.error().to_string() == "/watchdog/pci_device_id: 31 is that of /rng already");
}

TEST_CASE("two devices cannot have one place") {
  api::VmConfig config = networks(2);
  config.net[0].pci.pci_device_id = 5;
  config.rng.pci.pci_device_id = 5;
  const Status status = allot_places(config);
  REQUIRE_FALSE(status);
  CHECK(status.error().code == ErrorCode::Conflict);
  CHECK(status.error().to_string() == "/rng/pci_device_id: 5 is that of /net/0 already");
}

TEST_CASE("the host bridge's place and those beyond the bus are refused") {
  for (const std::uint8_t slot : {std::uint8_t{0}, std::uint8_t{32}}) {
    api::VmConfig config = networks(1);
    config.net[0].pci.pci_device_id = slot;
    const Status status = allot_places(config);
    REQUIRE_FALSE(status);
    CHECK(status.error().code == ErrorCode::BadRequest);
  }
}

TEST_CASE("31 devices fit on the bus, not one more") {
  api::VmConfig config = networks(30);  // and the rng
  CHECK(allot_places(config));
  config = networks(31);
  const Status status = allot_places(config);
  REQUIRE_FALSE(status);
  CHECK(status.error().to_string() == "/rng: there is no room for more than 31 PCI devices");
}

}  // namespace
}  // namespace vmmd::vm
