#include "daemon/snapshot/format/leftovers.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include <doctest/doctest.h>

#include "daemon/snapshot/format/staging.h"
#include "tests/unit/snapshot/fixture.h"

using namespace vmmd;
using namespace vmmd::snapshot;
using namespace vmmd::snapshot::test;
namespace fs = std::filesystem;

namespace {

constexpr const char* kOld = ".one.vmmd-123-0123456789abcdef.partial";

void make_leftover(const fs::path& path) {
  fs::create_directory(path);
  write_text(path / "memory.bin", "half");
}

/// Starts a snapshot in a child process that is killed in the middle of it.
void kill_writer(const fs::path& destination) {
  int ready[2] = {-1, -1};
  REQUIRE(::pipe(ready) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    auto staged = StagedSnapshot::begin(destination);
    const char answer = staged && staged->create_file("memory.bin") ? 'y' : 'n';
    if (::write(ready[1], &answer, 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char answer = 0;
  REQUIRE(::read(ready[0], &answer, 1) == 1);
  CHECK(answer == 'y');
  REQUIRE(::kill(child, SIGKILL) == 0);
  REQUIRE(::waitpid(child, nullptr, 0) == child);
  ::close(ready[0]);
  ::close(ready[1]);
}

}  // namespace

TEST_CASE("hidden names are recognised exactly") {
  CHECK(hidden_for(kOld) == "one");
  CHECK(hidden_for(".one.vmmd-7-0123456789abcdef.deleted") == "one");
  CHECK(hidden_for(".a.vmmd-b.vmmd-7-0123456789abcdef.partial") == "a.vmmd-b");
  for (const char* other : {"", "one", ".", "..", ".one", ".one.partial", ".vmmd-1-0123456789abcdef.partial",
                            "one.vmmd-1-0123456789abcdef.partial", ".one.vmmd-1-0123456789abcdef",
                            ".one.vmmd-x-0123456789abcdef.partial", ".one.vmmd--0123456789abcdef.partial",
                            ".one.vmmd-1-0123456789abcde.partial", ".one.vmmd-1-0123456789abcdefa.partial",
                            ".one.vmmd-1-0123456789ABCDEF.partial", ".one.vmmd-1-0123456789abcdef.partial~",
                            ".one.vmmd-12345678901-0123456789abcdef.partial"}) {
    CHECK_MESSAGE(hidden_for(other).empty(), other);
  }
}

TEST_CASE("a fresh hidden name is recognised and new each time") {
  const auto first = hidden_name("one", HiddenKind::Partial);
  const auto second = hidden_name("one", HiddenKind::Deleted);
  REQUIRE(first);
  REQUIRE(second);
  CHECK(hidden_for(*first) == "one");
  CHECK(hidden_for(*second) == "one");
  CHECK(first->substr(0, 30) != second->substr(0, 30));
}

TEST_CASE("what a killed writer left is removed by the collector") {
  const TempDir dir;
  kill_writer(dir / "one");
  REQUIRE(dir.entries() == 1);
  const auto removed = collect_leftovers(dir.path());
  REQUIRE(removed);
  CHECK(removed->size() == 1);
  CHECK(dir.entries() == 0);
}

TEST_CASE("what a killed writer left is removed by the next snapshot of that name") {
  const TempDir dir;
  kill_writer(dir / "one");
  publish_sample(dir / "one");
  CHECK(dir.entries() == 1);
  CHECK(open_snapshot(dir / "one"));
}

TEST_CASE("a living writer is no leftover") {
  const TempDir dir;
  auto staged = StagedSnapshot::begin(dir / "one");
  REQUIRE(staged);
  const auto removed = collect_leftovers(dir.path());
  REQUIRE(removed);
  CHECK(removed->empty());
  REQUIRE(staged->prepare(sample_content(*staged)));
  CHECK(staged->commit());
}

TEST_CASE("two writers of one name do not disturb each other, and one wins") {
  const TempDir dir;
  auto first = StagedSnapshot::begin(dir / "one");
  auto second = StagedSnapshot::begin(dir / "one");
  REQUIRE(first);
  REQUIRE(second);
  REQUIRE(first->prepare(sample_content(*first)));
  REQUIRE(second->prepare(sample_content(*second)));
  CHECK(first->commit());
  CHECK_FALSE(second->commit());
  const auto snapshot = open_snapshot(dir / "one");
  REQUIRE(snapshot);
  CHECK(snapshot->manifest.snapshot_id() == first->id().to_string());
}

TEST_CASE("an interrupted deletion is finished") {
  const TempDir dir;
  make_leftover(dir / ".one.vmmd-123-0123456789abcdef.deleted");
  REQUIRE(collect_leftovers(dir.path()));
  CHECK(dir.entries() == 0);
}

TEST_CASE("only leftovers of the given snapshot are removed when one is given") {
  const TempDir dir;
  make_leftover(dir / kOld);
  make_leftover(dir / ".two.vmmd-123-0123456789abcdef.partial");
  const auto removed = collect_leftovers(dir.path(), "one");
  REQUIRE(removed);
  REQUIRE(removed->size() == 1);
  CHECK(removed->front() == dir / kOld);
  CHECK(dir.entries() == 1);
}

TEST_CASE("what only looks like a leftover stays") {
  const TempDir dir;
  make_leftover(dir / ".one.partial");
  make_leftover(dir / "one.vmmd-123-0123456789abcdef.partial");
  write_text(dir / kOld, "a file");
  fs::create_directory(dir / "target");
  fs::create_directory_symlink("target", dir / ".one.vmmd-124-0123456789abcdef.partial");
  const auto removed = collect_leftovers(dir.path());
  REQUIRE(removed);
  CHECK(removed->empty());
  CHECK(dir.entries() == 5);
}

TEST_CASE("a directory inside a leftover is not descended into") {
  const TempDir dir;
  make_leftover(dir / kOld);
  fs::create_directory(dir / kOld / "deep");
  write_text(dir / kOld / "deep/mine", "x");
  CHECK_FALSE(collect_leftovers(dir.path()));
  CHECK(read_text(dir / kOld / "deep/mine") == "x");
}
