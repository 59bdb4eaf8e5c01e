#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "api/disk_source.h"
#include "api/options.h"
#include "api/validate_disks.h"
#include "tests/unit/support/temp_dir.h"

using namespace vmmd;
using namespace vmmd::api;

namespace {

using Messages = std::vector<std::string>;

struct Host {
  /// An image that begins with `head` and ends with `tail`.
  std::string image(const std::string& name, std::size_t size = 4096, const std::string& head = "",
                    const std::string& tail = "") const {
    const std::string path = dir / name;
    std::string bytes(size, '\0');
    bytes.replace(0, head.size(), head);
    if (!tail.empty()) bytes.replace(size - 512, tail.size(), tail);
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  testing::TempDir dir;
};

Messages mistakes_of(const VmConfig& config, bool look_inside = true) {
  Findings findings;
  check_disks(config, look_inside, findings);
  const Status status = std::move(findings).status();
  return status ? Messages{} : status.error().messages;
}

Messages mistakes(const std::string& option, bool look_inside = true) {
  const auto disk = parse_disk_option(option);
  if (!disk) return disk.error().messages;
  VmConfig config;
  config.disks = {*disk};
  return mistakes_of(config, look_inside);
}

}  // namespace

TEST_CASE("--disk takes Cloud Hypervisor's keys and ours") {
  const auto disk = parse_disk_option(
      "path=/a,readonly=on,direct=on,num_queues=3,queue_size=256,vhost_user=on,socket=/s,rate_limit_group=g,"
      "serial=S1,queue_affinity=[2@[0-1],0@3],backing_files=on,sparse=off,image_type=raw,"
      "lock_granularity=byte-range,overlay=memory,overlay_limit=1M,on_enospc=pause,bw_size=1K,"
      "bw_one_time_burst=7,bw_refill_time=100,ops_size=11,ops_refill_time=12,id=root,iommu=on,pci_segment=1,"
      "pci_device_id=5");
  REQUIRE(disk.has_value());
  DiskConfig want;
  want.path = "/a";
  want.readonly = want.direct = want.vhost_user = want.backing_files = true;
  want.num_queues = 3;
  want.queue_size = 256;
  want.vhost_socket = "/s";
  want.rate_limit_group = "g";
  want.serial = "S1";
  want.queue_affinity = {{2, {0, 1}}, {0, {3}}};
  want.sparse = false;
  want.image_type = ImageType::Raw;
  want.overlay = "memory";
  want.overlay_limit = 1 << 20;
  want.on_enospc = EnospcAction::Pause;
  want.rate_limiter_config = RateLimiterConfig{TokenBucket{1024, 7, 100}, TokenBucket{11, std::nullopt, 12}};
  want.pci.id = "root";
  want.pci.iommu = true;
  want.pci.pci_segment = 1;
  want.pci.pci_device_id = 5;
  CHECK(*disk == want);
}

TEST_CASE("--rate-limit-group needs an id and takes both kinds of limits") {
  CHECK_FALSE(parse_rate_limit_group_option("bw_size=1,bw_refill_time=2").has_value());
  const auto group = parse_rate_limit_group_option("id=slow,bw_size=1M,bw_refill_time=2");
  REQUIRE(group.has_value());
  CHECK(group->id == "slow");
  CHECK(group->rate_limiter_config.bandwidth == TokenBucket{1 << 20, std::nullopt, 2});
}

TEST_CASE("memdiff: is an overlay in memory") {
  DiskConfig disk;
  disk.path = "memdiff:/a/b";
  const DiskSource source = disk_source(disk);
  CHECK(source.path == "/a/b");
  CHECK(source.memory_overlay);
  CHECK_FALSE(source.overlay_file.has_value());
  CHECK_FALSE(source.writes_image(/*readonly=*/false));
}

TEST_CASE("disks that can be pass") {
  const Host host;
  const std::string image = host.image("a");
  for (const char* more : {"", ",readonly=on", ",overlay=memory,overlay_limit=4K",
                           ",num_queues=64,queue_size=1024", ",queue_size=4", ",image_type=raw"}) {
    CAPTURE(more);
    CHECK(mistakes("path=" + image + more) == Messages{});
  }
  CHECK(mistakes("path=memdiff:" + image) == Messages{});
  CHECK(mistakes("path=" + image + ",overlay=" + (host.dir / "layer")) == Messages{});
}

TEST_CASE("each mistake in a disk is named by its place") {
  const Host host;
  const std::string image = host.image("a");
  const auto first = [&](const std::string& more) { return mistakes("path=" + image + more).at(0); };
  CHECK(mistakes("readonly=on") ==
        Messages{"/disks/0/path: missing: a disk needs an image or a block device"});
  CHECK(mistakes("path=/nonexistent/a")
            .at(0)
            .starts_with("/disks/0/path: cannot open \"/nonexistent/a\": No such file"));
  CHECK(mistakes("path=/dev/null").at(0).ends_with("is neither a regular file nor a block device"));
  CHECK(mistakes("path=" + host.image("empty", 0)).at(0).find("is empty: truncate -s") != std::string::npos);
  CHECK(mistakes("path=" + host.image("odd", 4097)).at(0).find("4097 bytes, not a multiple of 512") !=
        std::string::npos);
  CHECK(first(",queue_size=100").starts_with("/disks/0/queue_size: 100 is not a power of two"));
  CHECK(first(",queue_size=2048").starts_with("/disks/0/queue_size: 2048"));
  CHECK(first(",queue_size=2").starts_with("/disks/0/queue_size: 2 is less than 4: a request is"));
  CHECK(first(",num_queues=65").starts_with("/disks/0/num_queues: 65 queues are more than 64"));
  CHECK(first(",vhost_user=on") == "/disks/0/vhost_user: vhost-user is not built yet");
  CHECK(first(",image_type=qcow2").starts_with("/disks/0/image_type: Qcow2 is not built yet"));
  CHECK(first(",readonly=on,overlay=memory").starts_with("/disks/0/readonly"));
  CHECK(first(",overlay_limit=1M") == "/disks/0/overlay_limit: needs overlay = memory");
  CHECK(first(",overlay=/nonexistent/layer").starts_with("/disks/0/overlay: cannot create"));
  CHECK(
      mistakes("path=memdiff:" + image + ",overlay=/tmp/x").at(0).starts_with("/disks/0/overlay: memdiff:"));
  CHECK(first(",rate_limit_group=g") == "/disks/0/rate_limit_group: there is no \"g\" in rate_limit_groups");
  CHECK(first(",queue_affinity=[1@0]")
            .starts_with("/disks/0/queue_affinity/0/queue_index: there is no queue 1"));
  CHECK(first(",queue_affinity=[0@65535]").starts_with("/disks/0/queue_affinity/0/host_cpus"));
}

TEST_CASE("an image of another format is refused, unless it is said to be raw or is restored") {
  const Host host;
  const auto names = [&](const std::string& path) { return mistakes("path=" + path).at(0); };
  CHECK(names(host.image("q", 4096, "QFI\xfb")).find("looks like a qcow2 image") != std::string::npos);
  CHECK(names(host.image("x", 4096, "vhdxfile")).find("looks like a VHDX image") != std::string::npos);
  CHECK(names(host.image("m", 4096, "KDMV")).find("looks like a VMDK image") != std::string::npos);
  CHECK(names(host.image("v", 4096, "", "conectix")).find("looks like a VHD image") != std::string::npos);
  const std::string image = host.image("q");
  CHECK(mistakes("path=" + host.image("q", 4096, "QFI\xfb") + ",image_type=raw") == Messages{});
  CHECK(mistakes("path=" + host.image("q", 4096, "QFI\xfb"), /*look_inside=*/false) == Messages{});
}

TEST_CASE("rate limit groups have ids of their own, and exclude a limit of the disk's own") {
  const Host host;
  VmConfig config;
  config.rate_limit_groups = {{"g", {}}, {"g", {}}, {"", {}}};
  config.disks.resize(1);
  config.disks[0].path = host.image("a");
  config.disks[0].rate_limit_group = "g";
  config.disks[0].rate_limiter_config.emplace();
  CHECK(mistakes_of(config) ==
        Messages{"/rate_limit_groups/2/id: the id is empty",
                 "/disks/0/rate_limit_group: rate_limiter_config and rate_limit_group exclude each other",
                 "/rate_limit_groups/1/id: \"g\" is the id of another group"});
}
