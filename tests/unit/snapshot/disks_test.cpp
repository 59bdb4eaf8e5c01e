#include "daemon/snapshot/format/disks.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>

#include <doctest/doctest.h>

#include "tests/unit/snapshot/fixture.h"

using namespace vmmd;
using namespace vmmd::snapshot;
using namespace vmmd::snapshot::test;
namespace fs = std::filesystem;

namespace {

struct Machine {
  TempDir dir;
  DiskFile root{"root", dir / "root.img", "disk", false};
  SnapshotManifest manifest;

  Machine() {
    write_text(root.path, std::string(12345, 'a'));
    auto found = identify_disk(root);
    REQUIRE(found);
    *manifest.add_disks() = found->disk;
  }

  [[nodiscard]] std::vector<std::string> problems(const std::set<std::string>& given = {}) const {
    Problems problems;
    check_disks(manifest, {&root, 1}, given, problems);
    return problems.messages();
  }
};

bool one_that_says(const std::vector<std::string>& problems, std::string_view part) {
  return problems.size() == 1 && problems.front().find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a disk's identity is its file's") {
  const TempDir dir;
  write_text(dir / "root.img", "12345");
  const timespec times[2] = {{.tv_sec = 7, .tv_nsec = 8}, {.tv_sec = 1'234'567'890, .tv_nsec = 987'654'321}};
  REQUIRE(::utimensat(AT_FDCWD, (dir / "root.img").c_str(), times, 0) == 0);
  const auto found = identify_disk({"root", dir / "root.img", "layer", true});
  REQUIRE(found);
  CHECK(found->disk.id() == "root");
  CHECK(found->disk.path() == (dir / "root.img").native());
  CHECK(found->disk.role() == "layer");
  CHECK(found->disk.readonly());
  CHECK(found->disk.size_bytes() == 5);
  CHECK(found->disk.mtime_ns() == 1'234'567'890'987'654'321);
}

TEST_CASE("what is no disk is refused, and a FIFO is not waited for") {
  const TempDir dir;
  CHECK(says(identify_disk({"root", dir / "none", "disk"}).error(), "is missing"));
  CHECK(
      says(identify_disk({"root", dir.path(), "disk"}).error(), "neither a regular file nor a block device"));
  REQUIRE(::mkfifo((dir / "fifo").c_str(), 0600) == 0);
  CHECK(says(identify_disk({"root", dir / "fifo", "disk"}).error(), "neither a regular file"));
}

TEST_CASE("a disk that is as it was is no problem") {
  CHECK(Machine().problems().empty());
}

TEST_CASE("a disk that was written to is refused, unless it was named for this restore") {
  const Machine machine;
  struct stat info = {};
  REQUIRE(::stat(machine.root.path.c_str(), &info) == 0);
  const timespec times[2] = {
      info.st_atim, {.tv_sec = info.st_mtim.tv_sec, .tv_nsec = (info.st_mtim.tv_nsec + 1) % 1'000'000'000}};
  REQUIRE(::utimensat(AT_FDCWD, machine.root.path.c_str(), times, 0) == 0);
  CHECK(one_that_says(machine.problems(), "disk root"));
  CHECK(one_that_says(machine.problems(), "was changed after the snapshot"));
  CHECK(machine.problems({"other"}).size() == 1);
  CHECK(machine.problems({"root"}).empty());
}

TEST_CASE("a disk of another size is refused, named or not") {
  const Machine machine;
  fs::resize_file(machine.root.path, 12346);
  CHECK(one_that_says(machine.problems(), "has 12346 bytes, the guest knows 12345"));
  CHECK(one_that_says(machine.problems({"root"}), "has 12346 bytes"));
}

TEST_CASE("a missing disk is refused by name") {
  const Machine machine;
  fs::remove(machine.root.path);
  CHECK(one_that_says(machine.problems({"root"}), "disk root: " + machine.root.path + " is missing"));
}

TEST_CASE("a disk that the manifest does not list is refused unless it was named for this restore") {
  Machine machine;
  machine.manifest.clear_disks();
  CHECK(one_that_says(machine.problems(), "disk root: manifest.bin does not say of what size and time"));
  CHECK(machine.problems({"other"}).size() == 1);
  CHECK(machine.problems({"root"}).empty());
}

TEST_CASE("a layer that holds nothing yet need not be listed") {
  Machine machine;
  machine.manifest.clear_disks();
  machine.root.role = "layer";
  CHECK(machine.problems().size() == 1);
  fs::resize_file(machine.root.path, 0);
  CHECK(machine.problems().empty());
  fs::remove(machine.root.path);
  CHECK(machine.problems().empty());
}

TEST_CASE("of a block device only the size is compared") {
  Machine machine;
  machine.manifest.mutable_disks(0)->set_mtime_ns(0);
  CHECK(machine.problems().empty());
}
