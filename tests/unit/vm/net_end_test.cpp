#include "daemon/vm/net_end.h"

#include <fcntl.h>

#include <doctest/doctest.h>

#include "api/mac_address.h"

using namespace vmmd;

TEST_CASE("net: who gives no MAC gets one of its own, local and of one station") {
  api::VmConfig config;
  config.net.resize(3);
  config.net[1].mac = "02:12:34:56:78:9a";
  REQUIRE(vm::give_macs(config).has_value());
  CHECK(config.net[1].mac == "02:12:34:56:78:9a");
  const auto first = api::parse_mac(config.net[0].mac.value_or(""));
  REQUIRE(first.has_value());
  CHECK(((*first)[0] & 3U) == 2U);
  CHECK(config.net[0].mac != config.net[2].mac);
}

TEST_CASE("net: a host's end that is not there is named") {
  api::NetConfig config;
  config.pci.id = "lan";
  config.passt = "/nonexistent/passt.socket";
  const auto missing = vm::NetEnd::open(config, nullptr);
  REQUIRE_FALSE(missing.has_value());
  CHECK(missing.error().to_string().find("\"lan\"") != std::string::npos);
  CHECK(missing.error().to_string().find("/nonexistent/passt.socket") != std::string::npos);
  config.passt.reset();
  config.fds = {-1};
  const auto closed = vm::NetEnd::open(config, nullptr);
  REQUIRE_FALSE(closed.has_value());
  CHECK(closed.error().to_string().find("its taps were descriptors and are closed") != std::string::npos);
}

TEST_CASE(
    "net: what was passed for a network is closed with it, and what is no tap is named by its owner's "
    "number") {
  api::NetConfig config;
  config.pci.id = "lan";
  config.fds = {258};
  api::FdsById fds;
  fds["lan"].emplace_back(::open("/dev/null", O_RDWR | O_CLOEXEC));
  fds["wan"].emplace_back(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const auto refused = vm::NetEnd::open(config, &fds);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().to_string().find("descriptor 258 is not an open tap") != std::string::npos);
  CHECK(fds.size() == 1);
  CHECK(fds.contains("wan"));
}
