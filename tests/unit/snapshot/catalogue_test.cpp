#include "daemon/snapshot/format/catalogue.h"

#include <sys/file.h>
#include <sys/fsuid.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include <doctest/doctest.h>

#include "base/file.h"
#include "daemon/snapshot/format/leftovers.h"
#include "daemon/snapshot/format/reseal.h"
#include "tests/unit/snapshot/fixture.h"

using namespace vmmd;
using namespace vmmd::snapshot;
using namespace vmmd::snapshot::test;
namespace fs = std::filesystem;

namespace {

/// On files this thread has no more rights than anybody, while it lives.
class AsNobody {
 public:
  AsNobody() { ::setfsuid(::geteuid() == 0 ? 65534 : ::geteuid()); }
  AsNobody(const AsNobody&) = delete;
  AsNobody& operator=(const AsNobody&) = delete;
  ~AsNobody() { ::setfsuid(::geteuid()); }
};

}  // namespace

TEST_CASE("a complete snapshot is described") {
  const TempDir dir;
  publish_sample(dir / "one");
  const auto description = describe(dir / "one/");
  REQUIRE(description);
  CHECK(description->state == SnapshotState::Complete);
  CHECK(description->name == "one");
  CHECK(description->manifest.memory_size_bytes() == 5 * kMiB);
  CHECK(description->manifest.labels().at("owner") == "ci");
  // Three of five MiB are data, the rest is a hole.
  CHECK(description->size_on_disk >= 3 * kMiB);
  CHECK(description->size_on_disk < 4 * kMiB);
  CHECK(description->problems.empty());
}

TEST_CASE("a torn snapshot says what is wrong") {
  const TempDir dir;
  publish_sample(dir / "one");
  fs::remove(dir / "one/state.bin");
  const auto description = describe(dir / "one");
  REQUIRE(description);
  CHECK(description->state == SnapshotState::Torn);
  REQUIRE(description->problems.size() == 1);
  CHECK(description->problems[0] == "state.bin is missing");
  CHECK(description->manifest.vp_count() == 2);
}

TEST_CASE("a snapshot without its manifest is torn") {
  const TempDir dir;
  publish_sample(dir / "one");
  fs::remove(dir / "one/manifest.bin");
  const auto description = describe(dir / "one");
  REQUIRE(description);
  CHECK(description->state == SnapshotState::Torn);
}

TEST_CASE("a snapshot whose memory was taken is consumed") {
  const TempDir dir;
  publish_sample(dir / "one");
  auto snapshot = open_snapshot(dir / "one");
  REQUIRE(snapshot);
  REQUIRE(mark_consumed(*snapshot, "test"));
  const auto description = describe(dir / "one");
  REQUIRE(description);
  CHECK(description->state == SnapshotState::Consumed);
}

TEST_CASE("other things are no snapshots") {
  const TempDir dir;
  fs::create_directory(dir / "empty");
  write_text(dir / "file", "x");
  const auto empty = describe(dir / "empty");
  const auto file = describe(dir / "file");
  REQUIRE(empty);
  REQUIRE(file);
  CHECK(empty->state == SnapshotState::NotASnapshot);
  CHECK(file->state == SnapshotState::NotASnapshot);
  const auto none = describe(dir / "none");
  REQUIRE_FALSE(none);
  CHECK(none.error().code == ErrorCode::NotFound);
}

TEST_CASE("a list has the snapshots in order, torn ones too, and nothing else") {
  const TempDir dir;
  publish_sample(dir / "two");
  publish_sample(dir / "one");
  fs::remove(dir / "two/config.json");
  fs::create_directory(dir / "empty");
  write_text(dir / "file", "x");
  auto unfinished = StagedSnapshot::begin(dir / "three");
  REQUIRE(unfinished);
  REQUIRE(unfinished->prepare(sample_content(*unfinished)));
  const auto list = list_snapshots(dir.path());
  REQUIRE(list);
  REQUIRE(list->size() == 2);
  CHECK((*list)[0].name == "one");
  CHECK((*list)[1].name == "two");
  CHECK((*list)[1].state == SnapshotState::Torn);
}

TEST_CASE("a list has what cannot be read, with the reason") {
  const TempDir dir;
  fs::permissions(dir.path(), fs::perms(0755));
  for (const char* name : {"closed", "half", "open", "unsearchable"}) {
    publish_sample(dir / name);
    fs::permissions(dir / name, fs::perms(0755));
    for (const auto& file : fs::directory_iterator(dir / name)) fs::permissions(file, fs::perms(0644));
  }
  fs::permissions(dir / "closed", fs::perms::none);
  fs::permissions(dir / "half/manifest.bin", fs::perms::none);
  fs::permissions(dir / "unsearchable", fs::perms(0444));
  const auto list = [&dir] {
    const AsNobody nobody;
    return list_snapshots(dir.path());
  }();
  for (const char* name : {"closed", "unsearchable"}) fs::permissions(dir / name, fs::perms(0755));
  REQUIRE(list);
  REQUIRE(list->size() == 4);
  for (const std::size_t i : {0U, 1U, 3U}) {
    const SnapshotDescription& found = (*list)[i];
    CAPTURE(found.name);
    CHECK(found.state == SnapshotState::Unreadable);
    REQUIRE_FALSE(found.problems.empty());
    CHECK(found.problems[0].find("Permission denied") != std::string::npos);
  }
  CHECK((*list)[1].problems[0].find("manifest.bin") != std::string::npos);
  CHECK((*list)[2].state == SnapshotState::Complete);
}

TEST_CASE("what an interrupted change left inside snapshots is removed, and nothing else") {
  const TempDir dir;
  publish_sample(dir / "one");
  publish_sample(dir / "two");
  const std::string left = ".manifest.bin.vmmd-1-0123456789abcdef.partial";
  const std::string others = ".notes.vmmd-1-0123456789abcdef.partial";
  for (const std::string snapshot : {"one/", "two/"}) {
    write_text(dir / (snapshot + left), "x");
    write_text(dir / (snapshot + others), "x");
  }
  fs::create_directory(dir / "none");
  write_text(dir / ("none/" + left), "x");
  const UniqueFd changing = *open_file(dir / "two", O_RDONLY | O_DIRECTORY);
  REQUIRE(::flock(changing.get(), LOCK_EX) == 0);
  auto removed = collect_inside(dir.path());
  REQUIRE(removed);
  CHECK(*removed == std::vector<fs::path>{dir / "one" / left});
  CHECK(fs::exists(dir / "two" / left));
  REQUIRE(::flock(changing.get(), LOCK_UN) == 0);
  removed = collect_inside(dir / "two");
  REQUIRE(removed);
  CHECK(*removed == std::vector<fs::path>{dir / "two" / left});
  for (const char* snapshot : {"one", "two"}) {
    CHECK(open_snapshot(dir / snapshot));
    CHECK(fs::exists(dir / snapshot / others));
  }
  CHECK(fs::exists(dir / "none" / left));
}

TEST_CASE("a snapshot is deleted, complete or torn, and nothing is left") {
  const TempDir dir;
  publish_sample(dir / "one");
  SUBCASE("complete") {}
  SUBCASE("without manifest") {
    fs::remove(dir / "one/manifest.bin");
  }
  SUBCASE("with what an interrupted seal left") {
    write_text(dir / "one/.manifest.bin.vmmd-1-0123456789abcdef.partial", "x");
  }
  const Status removed = remove_snapshot(dir / "one");
  CHECK_MESSAGE(removed, removed.error().to_string());
  CHECK(dir.entries() == 0);
}

TEST_CASE("a directory with other people's files is not deleted") {
  const TempDir dir;
  publish_sample(dir / "one");
  write_text(dir / "one/notes.txt", "mine");
  const Status removed = remove_snapshot(dir / "one");
  REQUIRE_FALSE(removed);
  CHECK(says(removed.error(), "notes.txt"));
  CHECK(open_snapshot(dir / "one"));
}

TEST_CASE("what is no snapshot is not deleted") {
  const TempDir dir;
  fs::create_directory(dir / "empty");
  write_text(dir / "file", "x");
  publish_sample(dir / "one");
  fs::create_directory_symlink("one", dir / "link");
  CHECK_FALSE(remove_snapshot(dir / "empty"));
  CHECK_FALSE(remove_snapshot(dir / "file"));
  CHECK_FALSE(remove_snapshot(dir / "link"));
  const Status missing = remove_snapshot(dir / "none");
  REQUIRE_FALSE(missing);
  CHECK(missing.error().code == ErrorCode::NotFound);
  CHECK(dir.entries() == 4);
}

TEST_CASE("a snapshot that clones use can be deleted under them") {
  const TempDir dir;
  publish_sample(dir / "one");
  const auto clone = open_snapshot(dir / "one");
  REQUIRE(clone);
  REQUIRE(lock_memory(*clone, MemoryLock::Shared));
  REQUIRE(remove_snapshot(dir / "one"));
  CHECK(verify_memory(*clone));
}
