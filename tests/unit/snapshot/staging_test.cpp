#include "daemon/snapshot/format/staging.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <filesystem>
#include <optional>
#include <string>

#include <doctest/doctest.h>

#include "base/file.h"
#include "daemon/snapshot/format/id_attribute.h"
#include "daemon/snapshot/format/posix.h"
#include "tests/unit/snapshot/fixture.h"

using namespace vmmd;
using namespace vmmd::snapshot;
using namespace vmmd::snapshot::test;
namespace fs = std::filesystem;

namespace {

unsigned mode_of(const fs::path& path) {
  struct stat info = {};
  REQUIRE(::stat(path.c_str(), &info) == 0);
  return info.st_mode & 07777u;
}

Error refusal(const fs::path& destination) {
  auto staged = StagedSnapshot::begin(destination);
  REQUIRE_FALSE(staged);
  return staged.error();
}

bool keeps_attributes(const fs::path& file) {
  return ::setxattr(file.c_str(), "user.vmmd.test", "x", 1, 0) == 0;
}

}  // namespace

TEST_CASE("nothing is at the destination before commit, everything after it") {
  const TempDir dir;
  auto staged = StagedSnapshot::begin(dir / "one");
  REQUIRE(staged);
  REQUIRE(staged->prepare(sample_content(*staged)));
  CHECK_FALSE(fs::exists(dir / "one"));
  REQUIRE(staged->commit());
  for (const char* name : {"manifest.bin", "state.bin", "memory.bin", "memory.digests", "config.json"}) {
    CHECK(fs::is_regular_file(dir / "one" / name));
    CHECK(mode_of(dir / "one" / name) == 0600);
  }
  CHECK(mode_of(dir / "one") == 0700);
  CHECK(dir.entries() == 1);
}

TEST_CASE("a published snapshot is still there after its writer") {
  const TempDir dir;
  publish_sample(dir / "one");
  CHECK(open_snapshot(dir / "one"));
}

TEST_CASE("an empty directory is replaced and keeps its mode") {
  const TempDir dir;
  fs::create_directory(dir / "one");
  REQUIRE(::chmod((dir / "one").c_str(), 0750) == 0);
  publish_sample(dir / "one");
  CHECK(mode_of(dir / "one") == 0750);
  CHECK(open_snapshot(dir / "one"));
}

TEST_CASE("a destination with a trailing slash is the directory") {
  const TempDir dir;
  publish_sample(dir / "one/");
  CHECK(open_snapshot(dir / "one"));
}

TEST_CASE("without commit nothing is left") {
  const TempDir dir;
  {
    auto staged = StagedSnapshot::begin(dir / "one");
    REQUIRE(staged);
    REQUIRE(staged->prepare(sample_content(*staged)));
    CHECK(dir.entries() == 1);
  }
  CHECK(dir.entries() == 0);
}

TEST_CASE("without commit an empty destination stays as it was") {
  const TempDir dir;
  fs::create_directory(dir / "one");
  {
    auto staged = StagedSnapshot::begin(dir / "one");
    REQUIRE(staged);
    REQUIRE(staged->create_file("memory.bin"));
  }
  CHECK(fs::is_empty(dir / "one"));
  CHECK(dir.entries() == 1);
}

TEST_CASE("a moved-from writer removes nothing") {
  const TempDir dir;
  std::optional<StagedSnapshot> kept;
  {
    auto first = StagedSnapshot::begin(dir / "one");
    REQUIRE(first);
    kept.emplace(std::move(*first));
  }
  CHECK(dir.entries() == 1);
  REQUIRE(kept->prepare(sample_content(*kept)));
  CHECK(kept->commit());
}

TEST_CASE("a non-empty destination is refused untouched") {
  const TempDir dir;
  fs::create_directory(dir / "one");
  write_text(dir / "one/notes.txt", "mine");
  CHECK(says(refusal(dir / "one"), "not empty"));
  CHECK(read_text(dir / "one/notes.txt") == "mine");
  CHECK(dir.entries() == 1);
}

TEST_CASE("an existing snapshot is refused as such") {
  const TempDir dir;
  publish_sample(dir / "one");
  const Error error = refusal(dir / "one");
  CHECK(says(error, "already a snapshot"));
  CHECK(error.code == ErrorCode::Conflict);
  CHECK(open_snapshot(dir / "one"));
}

TEST_CASE("a file at the destination is refused untouched") {
  const TempDir dir;
  write_text(dir / "one", "mine");
  CHECK(says(refusal(dir / "one"), "not a directory"));
  CHECK(read_text(dir / "one") == "mine");
}

TEST_CASE("a symbolic link at the destination is refused, dangling or not") {
  const TempDir dir;
  fs::create_directory(dir / "real");
  fs::create_directory_symlink("real", dir / "link");
  fs::create_symlink("nowhere", dir / "dangling");
  CHECK(says(refusal(dir / "link"), "symbolic link"));
  CHECK(says(refusal(dir / "dangling"), "symbolic link"));
  CHECK(dir.entries() == 3);
}

TEST_CASE("a missing parent is named") {
  const TempDir dir;
  const Error error = refusal(dir / "no/one");
  CHECK(says(error, "parent directory"));
  CHECK(says(error, (dir / "no").native()));
  CHECK(says(error, "does not exist"));
}

TEST_CASE("a parent that is a file is refused") {
  const TempDir dir;
  write_text(dir / "file", "x");
  CHECK(says(refusal(dir / "file/one"), "not a directory"));
}

TEST_CASE("a path that names no directory is refused") {
  const TempDir dir;
  for (const fs::path& path : {fs::path(), fs::path("/"), dir / ".", dir / ".."}) {
    CHECK(says(refusal(path), "does not name"));
  }
}

TEST_CASE("a name too long to hide beside is refused") {
  const TempDir dir;
  CHECK(says(refusal(dir / std::string(250, 'n')), "too long"));
  publish_sample(dir / std::string(200, 'n'));
  CHECK(dir.entries() == 1);
}

TEST_CASE("a mount point is refused before anything is written") {
  CHECK(says(refusal("/proc"), "mount point"));
}

TEST_CASE("a parent without permission is refused") {
  const TempDir dir;
  REQUIRE(::chmod(dir.path().c_str(), 0555) == 0);
  const bool root = ::geteuid() == 0;
  if (root) REQUIRE(::seteuid(65534) == 0);
  auto staged = StagedSnapshot::begin(dir / "one");
  if (root) REQUIRE(::seteuid(0) == 0);
  REQUIRE_FALSE(staged);
  CHECK(says(staged.error(), root ? "no permission for user 65534" : "no permission for user"));
  CHECK(dir.entries() == 0);
}

TEST_CASE("what a full or read-only filesystem says can be told apart") {
  CHECK(says(fail_writing(ENOSPC, "cannot write in ", "/snapshots").value(), "/snapshots: the disk is full"));
  CHECK(says(fail_writing(EDQUOT, "cannot write in ", "/snapshots").value(), "quota"));
  CHECK(says(fail_writing(EROFS, "cannot write in ", "/snapshots").value(), "read-only"));
}

TEST_CASE("that there is no space is known from whoever says it") {
  CHECK(space_of(fail_writing(ENOSPC, "cannot write ", "memory.bin").value()) == Space::DiskFull);
  CHECK(space_of(fail_errno(ErrorCode::Internal, ENOSPC, "cannot write disk-a.bin").value()) ==
        Space::DiskFull);
  CHECK(space_of(fail_writing(EDQUOT, "cannot write ", "memory.bin").value()) == Space::QuotaUsedUp);
  CHECK(space_of(fail_errno(ErrorCode::Internal, EDQUOT, "cannot write disk-a.bin").value()) ==
        Space::QuotaUsedUp);
  CHECK(space_of(fail_writing(EIO, "cannot write ", "memory.bin").value()) == Space::Enough);
  const UniqueFd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  REQUIRE(full);
  const Status written = write_out(full.get(), std::as_bytes(std::span("x")), 0, "memory.bin");
  REQUIRE_FALSE(written);
  CHECK(says(written.error(), "cannot write memory.bin: the disk is full"));
}

TEST_CASE("what appears at the destination meanwhile is left alone") {
  const TempDir dir;
  auto staged = StagedSnapshot::begin(dir / "one");
  REQUIRE(staged);
  REQUIRE(staged->prepare(sample_content(*staged)));
  SUBCASE("a file") {
    write_text(dir / "one", "mine");
  }
  SUBCASE("an empty directory") {
    fs::create_directory(dir / "one");
  }
  SUBCASE("a link") {
    fs::create_symlink("nowhere", dir / "one");
  }
  const Status committed = staged->commit();
  REQUIRE_FALSE(committed);
  CHECK(says(committed.error(), "appeared"));
  CHECK(fs::exists(fs::symlink_status(dir / "one")));
}

TEST_CASE("an empty directory that is filled meanwhile is left alone") {
  const TempDir dir;
  fs::create_directory(dir / "one");
  auto staged = StagedSnapshot::begin(dir / "one");
  REQUIRE(staged);
  REQUIRE(staged->prepare(sample_content(*staged)));
  write_text(dir / "one/notes.txt", "mine");
  CHECK_FALSE(staged->commit());
  CHECK(read_text(dir / "one/notes.txt") == "mine");
}

TEST_CASE("a file is created once") {
  const TempDir dir;
  auto staged = StagedSnapshot::begin(dir / "one");
  REQUIRE(staged);
  REQUIRE(staged->create_file("memory.bin"));
  CHECK_FALSE(staged->create_file("memory.bin"));
}

TEST_CASE("commit needs prepare, prepare needs memory of the VM's size") {
  const TempDir dir;
  auto staged = StagedSnapshot::begin(dir / "one");
  REQUIRE(staged);
  CHECK_FALSE(staged->commit());
  CHECK_FALSE(staged->prepare({}));
  auto content = sample_content(*staged);
  content.manifest.set_memory_size_bytes(6 * kMiB);
  const Status prepared = staged->prepare(std::move(content));
  REQUIRE_FALSE(prepared);
  CHECK(says(prepared.error(), "the VM 6291456"));
}

TEST_CASE("what could not be opened again is not written") {
  const TempDir dir;
  auto staged = StagedSnapshot::begin(dir / "one");
  REQUIRE(staged);
  auto content = sample_content(*staged);
  SUBCASE("a rule is broken") {
    content.manifest.set_vp_count(0);
  }
  SUBCASE("text that is no UTF-8") {
    content.manifest.mutable_disks(0)->set_path("/\xFF");
  }
  SUBCASE("a unit twice") {
    *content.state.add_units() = content.state.units(0);
  }
  const Status prepared = staged->prepare(std::move(content));
  REQUIRE_FALSE(prepared);
  CHECK(says(prepared.error(), "could not be opened again"));
}

TEST_CASE("memory.bin carries the snapshot's id") {
  const TempDir dir;
  publish_sample(dir / "one");
  if (!keeps_attributes(dir / "one/memory.bin")) return;
  const auto snapshot = open_snapshot(dir / "one");
  REQUIRE(snapshot);
  CHECK(read_id_attribute(snapshot->memory.get()) == snapshot->manifest.snapshot_id());
}

TEST_CASE("a linked memory.bin is the same file") {
  const TempDir dir;
  write_text(dir / "ram", std::string(5 * kMiB, 'r'));
  auto ram = open_file(dir / "ram", O_RDWR);
  REQUIRE(ram);
  auto staged = StagedSnapshot::begin(dir / "one");
  REQUIRE(staged);
  REQUIRE(staged->link_file(kMemoryName, ram->get(), "ram"));
  REQUIRE(staged->prepare(
      {.manifest = sample_manifest(), .state = sample_state(), .config = "{}", .digests = {}}));
  REQUIRE(staged->commit());
  CHECK(fs::equivalent(dir / "ram", dir / "one/memory.bin"));
  CHECK(open_snapshot(dir / "one"));
}

TEST_CASE("a linked file of a snapshot that is not published is what it was") {
  const TempDir dir;
  write_text(dir / "ram", std::string(5 * kMiB, 'r'));
  if (!keeps_attributes(dir / "ram")) return;
  auto ram = open_file(dir / "ram", O_RDWR);
  REQUIRE(ram);
  std::optional<std::string> before;
  SUBCASE("without a mark") {}
  SUBCASE("with the mark of a snapshot that is gone") {
    before = "5b1a0c2e-0d3f-4a6b-8c9d-112233445566";
    REQUIRE(write_id_attribute(ram->get(), *before, "ram"));
  }
  auto staged = StagedSnapshot::begin(dir / "one");
  REQUIRE(staged);
  REQUIRE(staged->link_file(kMemoryName, ram->get(), "ram"));
  REQUIRE(staged->prepare(
      {.manifest = sample_manifest(), .state = sample_state(), .config = "{}", .digests = {}}));
  CHECK(read_id_attribute(ram->get()) == staged->id().to_string());
  {
    const StagedSnapshot ended = std::move(*staged);
  }
  CHECK(read_id_attribute(ram->get()) == before);
  CHECK(fs::hard_link_count(dir / "ram") == 1);
}

TEST_CASE("a file is not linked into two snapshots") {
  const TempDir dir;
  publish_sample(dir / "one");
  if (!keeps_attributes(dir / "one/memory.bin")) return;
  fs::create_hard_link(dir / "one/memory.bin", dir / "ram");
  auto ram = open_file(dir / "ram", O_RDWR);
  REQUIRE(ram);
  auto staged = StagedSnapshot::begin(dir / "two");
  REQUIRE(staged);
  const Status linked = staged->link_file(kMemoryName, ram->get(), "ram");
  REQUIRE_FALSE(linked);
  CHECK(says(linked.error(), "already the memory of snapshot"));
}

TEST_CASE("a link across filesystems says what to do") {
  const TempDir dir;
  std::string pattern = (fs::temp_directory_path() / "vmmd-link-XXXXXX").native();
  UniqueFd other(::mkstemp(pattern.data()));
  REQUIRE(other);
  struct stat here = {};
  struct stat there = {};
  REQUIRE(::stat(dir.path().c_str(), &here) == 0);
  REQUIRE(::fstat(other.get(), &there) == 0);
  if (here.st_dev != there.st_dev) {
    auto staged = StagedSnapshot::begin(dir / "one");
    REQUIRE(staged);
    const Status linked = staged->link_file(kMemoryName, other.get(), "ram");
    REQUIRE_FALSE(linked);
    CHECK(says(linked.error(), "use mode copy"));
    CHECK(linked.error().code == ErrorCode::Conflict);
  }
  REQUIRE(::unlink(pattern.c_str()) == 0);
}

TEST_CASE("a deleted file cannot be linked") {
  const TempDir dir;
  write_text(dir / "ram", "x");
  auto ram = open_file(dir / "ram", O_RDWR);
  REQUIRE(ram);
  fs::remove(dir / "ram");
  auto staged = StagedSnapshot::begin(dir / "one");
  REQUIRE(staged);
  const Status linked = staged->link_file(kMemoryName, ram->get(), "ram");
  REQUIRE_FALSE(linked);
  CHECK(says(linked.error(), "deleted"));
}
