#include "daemon/snapshot/format/reseal.h"

#include <filesystem>
#include <string>

#include <doctest/doctest.h>

#include "tests/unit/snapshot/fixture.h"

using namespace vmmd;
using namespace vmmd::snapshot;
using namespace vmmd::snapshot::test;
namespace fs = std::filesystem;

namespace {

constexpr const char* kEdited = R"({"cpus":{"boot_vcpus":2},"serial":{"mode":"Null"}})";

Status accept(const std::string&, const std::string&) {
  return {};
}

}  // namespace

TEST_CASE("a deliberate edit is sealed when the check agrees, and the check sees both") {
  const TempDir dir;
  publish_sample(dir / "one");
  write_text(dir / "one/config.json", kEdited);
  std::string before;
  std::string after;
  const auto changed = seal(dir / "one", [&](const std::string& sealed, const std::string& edited) -> Status {
    before = sealed;
    after = edited;
    return {};
  });
  REQUIRE(changed);
  CHECK(*changed);
  CHECK(before == Sample().config);
  CHECK(after == kEdited);
  const auto snapshot = open_snapshot(dir / "one");
  REQUIRE_MESSAGE(snapshot, snapshot.error().to_string());
  CHECK(snapshot->config == kEdited);
  CHECK(snapshot->manifest.has_config_sealed_at());
}

TEST_CASE("an edit that the check refuses is not sealed") {
  const TempDir dir;
  publish_sample(dir / "one");
  write_text(dir / "one/config.json", kEdited);
  const std::string manifest = read_text(dir / "one/manifest.bin");
  const auto changed = seal(dir / "one", [](const std::string&, const std::string&) -> Status {
    return fail(ErrorCode::BadRequest, "guest-visible");
  });
  REQUIRE_FALSE(changed);
  CHECK(says(changed.error(), "guest-visible"));
  CHECK(read_text(dir / "one/manifest.bin") == manifest);
}

TEST_CASE("a disk that the edit moves is the one that a restore asks for, if it has the guest's size") {
  const TempDir dir;
  publish_sample(dir / "one");
  const auto before = open_snapshot(dir / "one");
  REQUIRE(before);
  const Disk saved = before->manifest.disks(0);
  write_text(dir / "one/config.json", kEdited);
  write_text(dir / "copy.img", "");
  fs::resize_file(dir / "copy.img", saved.size_bytes());
  const auto moved_to = [&](const fs::path& path) {
    return [&saved, path](const std::string& config) -> Result<std::vector<DiskFile>> {
      const std::string now = config == kEdited ? path.native() : saved.path();
      return std::vector<DiskFile>{{saved.id(), now, saved.role(), saved.readonly()}};
    };
  };
  SUBCASE("it has") {
    REQUIRE(seal(dir / "one", accept, moved_to(dir / "copy.img")));
    const auto sealed = open_snapshot(dir / "one");
    REQUIRE(sealed);
    const Disk& now = sealed->manifest.disks(0);
    CHECK(now.path() == (dir / "copy.img").native());
    CHECK(now.mtime_ns() != saved.mtime_ns());
    Problems problems;
    const auto disks = moved_to(dir / "copy.img")(kEdited);
    check_disks(sealed->manifest, *disks, {}, problems);
    CHECK(problems.empty());
  }
  SUBCASE("it has another size") {
    fs::resize_file(dir / "copy.img", saved.size_bytes() + 512);
    const auto refused = seal(dir / "one", accept, moved_to(dir / "copy.img"));
    REQUIRE_FALSE(refused);
    CHECK(says(refused.error(), "the guest knows"));
  }
  SUBCASE("it is missing") {
    CHECK_FALSE(seal(dir / "one", accept, moved_to(dir / "missing.img")));
  }
}

TEST_CASE("a layer that an edit gives to a disk is one that a restore knows") {
  const TempDir dir;
  publish_sample(dir / "one");
  write_text(dir / "one/config.json", kEdited);
  const DiskFile layer{"disk0/overlay", dir / "layer", "layer"};
  const auto disks_of = [&](const std::string& config) -> Result<std::vector<DiskFile>> {
    if (config != kEdited) return std::vector<DiskFile>();
    return std::vector{layer};
  };
  const auto problems = [&] {
    const auto sealed = open_snapshot(dir / "one");
    REQUIRE(sealed);
    Problems found;
    check_disks(sealed->manifest, {&layer, 1}, {}, found);
    return found.messages().size();
  };
  SUBCASE("one with writes in it, as it is now") {
    write_text(layer.path, "written");
    REQUIRE(seal(dir / "one", accept, disks_of));
    CHECK(problems() == 0);
    write_text(layer.path, "rewritten");
    CHECK(problems() == 1);
  }
  SUBCASE("one that is not there yet") {
    REQUIRE(seal(dir / "one", accept, disks_of));
    CHECK(problems() == 0);
    CHECK(open_snapshot(dir / "one")->manifest.disks_size() == 1);
  }
  SUBCASE("not one that was there before the edit") {
    write_text(layer.path, "written");
    const auto always = [&](const std::string&) -> Result<std::vector<DiskFile>> {
      return std::vector{layer};
    };
    REQUIRE(seal(dir / "one", accept, always));
    CHECK(problems() == 1);
  }
}

TEST_CASE("sealing without an edit changes nothing") {
  const TempDir dir;
  publish_sample(dir / "one");
  const std::string manifest = read_text(dir / "one/manifest.bin");
  const auto changed = seal(dir / "one", accept);
  REQUIRE(changed);
  CHECK_FALSE(*changed);
  CHECK(read_text(dir / "one/manifest.bin") == manifest);
}

TEST_CASE("sealing does not bless other damage") {
  const TempDir dir;
  publish_sample(dir / "one");
  write_text(dir / "one/config.json", kEdited);
  flip_byte(dir / "one/state.bin", 3);
  CHECK_FALSE(seal(dir / "one", accept));
}

TEST_CASE("sealing leaves no temporary file") {
  const TempDir dir;
  publish_sample(dir / "one");
  write_text(dir / "one/config.json", kEdited);
  REQUIRE(seal(dir / "one", accept));
  for (const auto& entry : fs::directory_iterator(dir / "one")) {
    CHECK(entry.path().filename().native().front() != '.');
  }
}

TEST_CASE("a snapshot whose memory was taken is refused with the reason") {
  const TempDir dir;
  publish_sample(dir / "one");
  {
    auto snapshot = open_snapshot(dir / "one", {.writable_memory = true});
    REQUIRE(snapshot);
    REQUIRE(lock_memory(*snapshot, MemoryLock::Exclusive));
    REQUIRE(mark_consumed(*snapshot, "vmmd 0.1.0, pid 4711"));
    CHECK(snapshot->manifest.has_consumed());
  }
  const auto again = open_snapshot(dir / "one");
  REQUIRE_FALSE(again);
  CHECK(says(again.error(), "pid 4711"));
  CHECK(open_snapshot(dir / "one", {.allow_consumed = true}));
}

TEST_CASE("a snapshot is taken once, whoever opened it first") {
  const TempDir dir;
  publish_sample(dir / "one");
  auto first = open_snapshot(dir / "one");
  auto second = open_snapshot(dir / "one");
  REQUIRE(first);
  REQUIRE(second);
  REQUIRE(mark_consumed(*first, "first"));
  const Status marked = mark_consumed(*second, "second");
  REQUIRE_FALSE(marked);
  CHECK(says(marked.error(), "first"));
}

TEST_CASE("an edit is sealed while digests are computed, and both are kept") {
  const TempDir dir;
  publish_sample(dir / "one", {.digests = false});
  auto snapshot = open_snapshot(dir / "one");
  REQUIRE(snapshot);
  write_text(dir / "one/config.json", kEdited);
  bool sealed = false;
  REQUIRE(record_memory_digests(*snapshot, [&](std::uint64_t, std::uint64_t) {
    if (!sealed) sealed = seal(dir / "one", accept).has_value();
    return true;
  }));
  CHECK(sealed);
  const auto again = open_snapshot(dir / "one");
  REQUIRE(again);
  CHECK(again->config == kEdited);
  CHECK(load_memory_digests(*again));
}

TEST_CASE("memory that a shared restore takes while it is read gets no digests") {
  const TempDir dir;
  publish_sample(dir / "one", {.digests = false});
  auto snapshot = open_snapshot(dir / "one");
  auto taken = open_snapshot(dir / "one");
  REQUIRE(snapshot);
  REQUIRE(taken);
  bool marked = false;
  const auto recorded = record_memory_digests(*snapshot, [&](std::uint64_t, std::uint64_t) {
    if (!marked) marked = mark_consumed(*taken, "another vmmd").has_value();
    return true;
  });
  CHECK(marked);
  REQUIRE_FALSE(recorded);
  CHECK(recorded.error().code == ErrorCode::Conflict);
  CHECK(says(recorded.error(), "another vmmd"));
  CHECK_FALSE(fs::exists(dir / "one/memory.digests"));
}

TEST_CASE("whoever changes a snapshot keeps others from it") {
  const TempDir dir;
  publish_sample(dir / "one");
  write_text(dir / "one/config.json", kEdited);
  bool refused = false;
  REQUIRE(seal(dir / "one", [&](const std::string&, const std::string&) -> Status {
    auto other = open_snapshot(dir / "one", {.allow_edited_config = true});
    refused = other && !mark_consumed(*other, "another vmmd");
    return {};
  }));
  CHECK(refused);
}

TEST_CASE("digests are added to a snapshot that was taken without") {
  const TempDir dir;
  publish_sample(dir / "one", {.digests = false});
  auto snapshot = open_snapshot(dir / "one");
  REQUIRE(snapshot);
  const auto recorded = record_memory_digests(*snapshot);
  REQUIRE_MESSAGE(recorded, recorded.error().to_string());
  CHECK(*recorded);
  CHECK(load_memory_digests(*snapshot));
  const auto again = open_snapshot(dir / "one");
  REQUIRE(again);
  const auto report = verify_memory(*again);
  REQUIRE(report);
  CHECK(report->damaged.empty());
}

TEST_CASE("cancelled, no digests are added") {
  const TempDir dir;
  publish_sample(dir / "one", {.digests = false});
  auto snapshot = open_snapshot(dir / "one");
  REQUIRE(snapshot);
  const auto recorded = record_memory_digests(*snapshot, [](std::uint64_t, std::uint64_t) { return false; });
  REQUIRE(recorded);
  CHECK_FALSE(*recorded);
  CHECK_FALSE(fs::exists(dir / "one/memory.digests"));
  CHECK(open_snapshot(dir / "one"));
}
