#include "api/disk_paths.h"

#include <doctest/doctest.h>

using namespace vmmd::api;

namespace {

DiskConfig disk(const char* id, const char* path) {
  DiskConfig disk;
  disk.pci.id = id;
  disk.path = path;
  return disk;
}

}  // namespace

TEST_CASE("disks, the files of their layers and persistent memory lie in files") {
  VmConfig config;
  config.disks = {disk("root", "/root.img"), disk("data", "/data.img"), disk("scratch", "/base.img"),
                  disk("far", "/unused"), disk("diff", "memdiff:/diff.img")};
  config.disks[0].readonly = true;
  config.disks[1].overlay = "/data.layer";
  config.disks[2].overlay = "memory";
  config.disks[3].vhost_user = true;
  config.pmem.emplace_back();
  config.pmem[0].file = "/pmem.img";
  config.pmem[0].pci.id = "store";
  const auto paths = disk_paths(config);
  REQUIRE(paths.size() == 6);
  const auto is = [&](std::size_t i, const char* id, const char* path, const char* role, bool readonly) {
    return paths[i].id == id && paths[i].path == path && paths[i].role == role &&
           paths[i].readonly == readonly;
  };
  CHECK(is(0, "root", "/root.img", "disk", true));
  CHECK(is(1, "data", "/data.img", "disk", true));  // its layer takes the writes
  CHECK(is(2, "data/overlay", "/data.layer", "layer", false));
  CHECK(is(3, "scratch", "/base.img", "disk", true));
  CHECK(is(4, "diff", "/diff.img", "disk", true));
  CHECK(is(5, "store", "/pmem.img", "pmem", false));
}

TEST_CASE("memdiff: is no part of the file's name") {
  VmConfig config;
  config.disks = {disk("diff", "memdiff:/base.img")};
  const auto paths = disk_paths(config);
  REQUIRE(paths.size() == 1);
  CHECK(paths[0].path == "/base.img");
  CHECK(paths[0].readonly);
}

TEST_CASE("overrides name disks by id and path") {
  CHECK(overridden_disk_paths(R"({"disks": [{"id": "root", "path": "/a"}, {"id": "data", "overlay": "/b"},
      {"id": "kept", "direct": true}, {"path": "/c"}], "pmem": [{"id": "store", "file": "/d"}]})") ==
        std::set<std::string>{"root", "data/overlay", "store"});
  CHECK(overridden_disk_paths("").empty());
  CHECK(overridden_disk_paths("{oops").empty());
  CHECK(overridden_disk_paths(R"({"disks": {"id": "root"}})").empty());
  CHECK(overridden_disk_paths(R"({"disks": [{"id": 7, "path": "/a"}, "root"]})").empty());
}
