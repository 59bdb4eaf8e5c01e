#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "api/mac_address.h"
#include "api/options.h"
#include "api/overrides.h"
#include "api/validate_networks.h"

using namespace vmmd;
using namespace vmmd::api;

namespace {

/// What is wrong with `--net OPTION…`.
std::vector<std::string> mistakes(const std::vector<std::string>& options, bool boots = true) {
  VmConfig config;
  for (const std::string& option : options) {
    const auto net = parse_net_option(option);
    if (!net) return net.error().messages;
    config.net.push_back(*net);
  }
  Findings findings;
  check_networks(config, boots, findings);
  const Status status = std::move(findings).status();
  return status ? std::vector<std::string>{} : status.error().messages;
}

using Messages = std::vector<std::string>;

}  // namespace

TEST_CASE("--net takes Cloud Hypervisor's keys") {
  const auto net = parse_net_option(
      "tap=tap0,ip=192.0.2.1,mask=255.255.255.0,mac=02:00:00:00:00:01,host_mac=02:00:00:00:00:02,mtu=1400,"
      "num_queues=4,queue_size=512,offload_tso=off,offload_ufo=off,offload_csum=off,bw_size=1K,"
      "bw_one_time_burst=7,bw_refill_time=100,ops_size=11,ops_refill_time=12,id=lan,iommu=on,pci_segment=1,"
      "pci_device_id=5");
  REQUIRE(net.has_value());
  NetConfig want;
  want.tap = "tap0";
  want.ip = "192.0.2.1";
  want.mask = "255.255.255.0";
  want.mac = "02:00:00:00:00:01";
  want.host_mac = "02:00:00:00:00:02";
  want.mtu = 1400;
  want.num_queues = 4;
  want.queue_size = 512;
  want.offload_tso = want.offload_ufo = want.offload_csum = false;
  want.rate_limiter_config = RateLimiterConfig{TokenBucket{1024, 7, 100}, TokenBucket{11, std::nullopt, 12}};
  want.pci.id = "lan";
  want.pci.iommu = true;
  want.pci.pci_segment = 1;
  want.pci.pci_device_id = 5;
  CHECK(*net == want);
}

TEST_CASE("--net fd= says how many queues there are") {
  const auto net = parse_net_option("fd=[3,7]");
  REQUIRE(net.has_value());
  CHECK(net->fds == std::vector<std::int32_t>{3, 7});
  CHECK(net->num_queues == 4);
  CHECK_FALSE(parse_net_option("fd=[3,x]").has_value());
}

TEST_CASE("--net refuses half a rate limit") {
  CHECK_FALSE(parse_net_option("bw_size=1").has_value());
  CHECK_FALSE(parse_net_option("ops_refill_time=1").has_value());
}

TEST_CASE("networks that can be pass") {
  CHECK(mistakes({"tap=a", "tap=b,num_queues=62,queue_size=1024", "passt=/run/p", "fd=[3]", "mtu=1280"}) ==
        Messages{});
}

TEST_CASE("each mistake in a network is named by its place") {
  CHECK(mistakes({"tap=a,passt=/p"}) == Messages{"/net/0/tap: a network is one of tap, fds and passt"});
  CHECK(mistakes({"num_queues=3"})[0].starts_with("/net/0/num_queues: 3 is not an even number up to 62"));
  CHECK(mistakes({"num_queues=64"})[0].starts_with("/net/0/num_queues: 64"));
  CHECK(mistakes({"queue_size=100"})[0].starts_with("/net/0/queue_size: 100"));
  CHECK(mistakes({"queue_size=2048"})[0].starts_with("/net/0/queue_size: 2048"));
  CHECK(mistakes({"queue_size=16"})[0].starts_with("/net/0/queue_size: 16 is less than 32: Linux"));
  CHECK(mistakes({"queue_size=32"}) == Messages{});
  CHECK(mistakes({"queue_size=16"}, /*boots=*/false) == Messages{});  // it ran with it before
  CHECK(mistakes({"fd=[3],num_queues=4"})[0].starts_with("/net/0/fds: 4 queues need 2 descriptors"));
  CHECK(mistakes({"mtu=1279"})[0].starts_with("/net/0/mtu: 1279"));
  CHECK(mistakes({"mask=255.0.0.0"})[0].starts_with("/net/0/mask"));
  CHECK(mistakes({"mac=02:00:00:00:00"})[0].starts_with("/net/0/mac"));
  CHECK(mistakes({"host_mac=01:00:00:00:00:00"})[0].starts_with("/net/0/host_mac"));
  CHECK(mistakes({"passt=/p,num_queues=4"})[0].starts_with("/net/0/num_queues"));
  CHECK(mistakes({"passt=/p,ip=192.0.2.1"})[0].starts_with("/net/0/passt"));
  CHECK(mistakes({"tap=a", "tap=a"}) == Messages{"/net/1/tap: \"a\" is used by /net/0/tap too"});
  CHECK(mistakes({"vhost_user=on,socket=/s"}) == Messages{"/net/0/vhost_user: vhost-user is not built yet"});
}

TEST_CASE("MAC addresses are read as they are written") {
  const auto mac = parse_mac("02:1a:2B:3c:4d:5e");
  REQUIRE(mac.has_value());
  CHECK(mac_text(*mac) == "02:1a:2b:3c:4d:5e");
  for (const char* bad : {"", "02:1a:2b:3c:4d:5", "02-1a-2b-3c-4d-5e", "02:1a:2b:3c:4d:5g",
                          "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "+2:1a:2b:3c:4d:5e"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_mac(bad).has_value());
  }
}
