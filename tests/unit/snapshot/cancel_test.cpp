#include <unistd.h>

#include <filesystem>
#include <future>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "base/side_thread.h"
#include "daemon/snapshot/format/leftovers.h"
#include "daemon/snapshot/format/staging.h"
#include "tests/unit/snapshot/fixture.h"

// Cancelling while the disk works: a SideThread that is busy with something else stands for a slow fsync.
using namespace vmmd;
using namespace vmmd::snapshot;
using namespace vmmd::snapshot::test;
namespace fs = std::filesystem;

namespace {

class BusyThread {
 public:
  explicit BusyThread(SideThread& thread) {
    thread.post([free = free_.get_future().share()] { free.wait(); });
  }
  ~BusyThread() { free_.set_value(); }
  BusyThread(const BusyThread&) = delete;
  BusyThread& operator=(const BusyThread&) = delete;

 private:
  std::promise<void> free_;
};

std::size_t open_descriptors() {
  const fs::directory_iterator entries("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
}

}  // namespace

TEST_CASE("a snapshot is whole when its syncs are waited for on another thread") {
  const TempDir dir;
  SideThread thread("sync");
  auto staged = StagedSnapshot::begin(dir / "one", {&thread, {}});
  REQUIRE(staged);
  REQUIRE(staged->prepare(sample_content(*staged)));
  REQUIRE(staged->commit());
  CHECK(open_snapshot(dir / "one"));
  CHECK(dir.entries() == 1);
}

TEST_CASE("cancelled while files are synced, prepare returns at once and nothing is left") {
  const TempDir dir;
  const std::size_t before = open_descriptors();
  {
    SideThread thread("sync");
    std::stop_source stop;
    {
      auto staged = StagedSnapshot::begin(dir / "one", {&thread, stop.get_token()});
      REQUIRE(staged);
      auto content = sample_content(*staged);
      const BusyThread busy(thread);
      const std::jthread canceller([&stop] { stop.request_stop(); });
      const Status prepared = staged->prepare(std::move(content));
      REQUIRE_FALSE(prepared);
      CHECK(prepared.error().code == ErrorCode::Conflict);
      const StagedSnapshot gone = std::move(*staged);
      CHECK(dir.entries() == 1);  // until it is dropped, which is now, while the thread is still busy
    }
    CHECK(dir.entries() == 0);
  }
  CHECK(open_descriptors() == before);
}

TEST_CASE("cancelled while the name is synced, the name is taken back") {
  const TempDir dir;
  SideThread thread("sync");
  std::stop_source stop;
  auto staged = StagedSnapshot::begin(dir / "one", {&thread, stop.get_token()});
  REQUIRE(staged);
  REQUIRE(staged->prepare(sample_content(*staged)));
  {
    const BusyThread busy(thread);
    const std::jthread canceller([&stop] { stop.request_stop(); });
    const Status committed = staged->commit();
    REQUIRE_FALSE(committed);
    CHECK(committed.error().code == ErrorCode::Conflict);
    CHECK(dir.entries() == 0);
  }
}

TEST_CASE("an empty directory is there again after a cancelled commit") {
  const TempDir dir;
  fs::create_directory(dir / "one");
  SideThread thread("sync");
  std::stop_source stop;
  auto staged = StagedSnapshot::begin(dir / "one", {&thread, stop.get_token()});
  REQUIRE(staged);
  REQUIRE(staged->prepare(sample_content(*staged)));
  const BusyThread busy(thread);
  const std::jthread canceller([&stop] { stop.request_stop(); });
  REQUIRE_FALSE(staged->commit());
  CHECK(fs::is_empty(dir / "one"));
  CHECK(dir.entries() == 1);
}

TEST_CASE("files that somebody still writes to go when he ends, and nobody takes them for a leftover") {
  const TempDir dir;
  const std::size_t before = open_descriptors();
  {
    SideThread thread("sync");
    std::promise<void> disk;
    {
      auto staged = StagedSnapshot::begin(dir / "one", {&thread, {}});
      REQUIRE(staged);
      const auto fd = staged->create_file(kMemoryName);
      REQUIRE(fd);
      std::vector<std::jthread> writers;
      writers.emplace_back([fd = *fd, answer = disk.get_future().share()] {
        answer.wait();
        CHECK(::pwrite(fd, "late", 4, 0) == 4);
      });
      staged->leave_behind(std::move(writers));
    }
    CHECK(dir.entries() == 1);
    REQUIRE(collect_leftovers(dir.path()));
    CHECK(dir.entries() == 1);
    disk.set_value();
  }
  CHECK(dir.entries() == 0);
  CHECK(open_descriptors() == before);
}

TEST_CASE("a layer is not listed once the snapshot is cancelled") {
  const TempDir dir;
  SideThread thread("sync");
  std::stop_source stop;
  auto staged = StagedSnapshot::begin(dir / "one", {&thread, stop.get_token()});
  REQUIRE(staged);
  const auto layer = staged->create_layer("disk-root.bin");
  REQUIRE(layer);
  REQUIRE(::ftruncate(*layer, 1 << 20) == 0);
  auto content = sample_content(*staged);
  stop.request_stop();
  const Status prepared = staged->prepare(std::move(content));
  REQUIRE_FALSE(prepared);
  CHECK(says(prepared.error(), "reading disk-root.bin was cancelled"));
}

TEST_CASE("the next snapshot waits for a sync that was abandoned") {
  const TempDir dir;
  SideThread thread("sync");
  bool abandoned_ended = false;
  std::promise<void> free;
  thread.post([&abandoned_ended, wait = free.get_future().share()] {
    wait.wait();
    abandoned_ended = true;
  });
  const std::jthread disk([&free] { free.set_value(); });
  auto staged = StagedSnapshot::begin(dir / "one", {&thread, {}});
  REQUIRE(staged);
  CHECK(abandoned_ended);
}

TEST_CASE("what an abandoned work owns is released on its thread") {
  std::promise<std::thread::id> released;
  std::promise<void> free;
  auto owned = std::shared_ptr<int>(new int(1), [&released](const int* value) {
    delete value;
    released.set_value(std::this_thread::get_id());
  });
  std::thread::id worker;
  {
    SideThread thread("sync");
    std::stop_source stop;
    stop.request_stop();
    const auto outcome = thread.run(
        [owned = std::move(owned), wait = free.get_future().share(), &worker]() -> Status {
          wait.wait();
          worker = std::this_thread::get_id();
          return {};
        },
        stop.get_token());
    CHECK_FALSE(outcome.has_value());
    free.set_value();
  }
  CHECK(released.get_future().get() == worker);
}

TEST_CASE("an outcome is the work's own") {
  SideThread thread("sync");
  const auto good = thread.run([]() -> Status { return {}; }, {});
  REQUIRE(good.has_value());
  CHECK(good->has_value());
  const auto bad = thread.run([]() -> Status { return fail(ErrorCode::TooMany, "no"); }, {});
  REQUIRE(bad.has_value());
  REQUIRE_FALSE(bad->has_value());
  CHECK(bad->error().code == ErrorCode::TooMany);
}
