#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <memory>

#include <doctest/doctest.h>

#include "base/unique_fd.h"
#include "daemon/loop/device_loop.h"
#include "tests/unit/support/await.h"

using namespace vmmd;
using devices::FdEvent;
using devices::FdWatch;
using vmmd::loop::DeviceLoop;
using vmmd::testing::Happening;

namespace {

struct Watching {
  Watching() { REQUIRE(loop.start()); }
  DeviceLoop loop;
  UniqueFd event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  Happening ready;
};

}  // namespace

TEST_CASE_FIXTURE(Watching, "a watch calls again and again while its descriptor is ready") {
  std::unique_ptr<FdWatch> watch;
  loop.run_sync([&] {
    auto made = loop.watch(event.get(), FdEvent::Readable, [&] {
      ready.happen();
      if (ready.count() == 3) watch.reset();  // in its own callback
    });
    REQUIRE(made);
    watch = std::move(*made);
  });
  CHECK(ready.count() == 0);
  REQUIRE(::eventfd_write(event.get(), 1) == 0);
  CHECK(ready.wait_for(3));
  loop.run_sync([&] { CHECK(watch == nullptr); });
  CHECK(ready.count() == 3);
}

TEST_CASE_FIXTURE(Watching, "a destroyed watch neither calls nor closes") {
  loop.run_sync([&] {
    auto watch = loop.watch(event.get(), FdEvent::Readable, [&] { ready.happen(); });
    REQUIRE(watch);
    REQUIRE(::eventfd_write(event.get(), 1) == 0);
  });
  loop.run_sync([] {});
  CHECK(ready.count() == 0);
  eventfd_t value = 0;
  CHECK(::eventfd_read(event.get(), &value) == 0);
}

TEST_CASE_FIXTURE(Watching, "one descriptor is watched for both directions at once") {
  std::array<int, 2> pair{};
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) == 0);
  const UniqueFd ours(pair[0]);
  const UniqueFd theirs(pair[1]);
  Happening writable;
  std::unique_ptr<FdWatch> reader;
  std::unique_ptr<FdWatch> writer;
  loop.run_sync([&] {
    auto read = loop.watch(ours.get(), FdEvent::Readable, [&] {
      reader.reset();
      ready.happen();
    });
    auto write = loop.watch(ours.get(), FdEvent::Writable, [&] {
      writer.reset();
      writable.happen();
    });
    REQUIRE(read);
    REQUIRE(write);
    reader = std::move(*read);
    writer = std::move(*write);
  });
  CHECK(writable.wait_for(1));
  REQUIRE(::write(theirs.get(), "x", 1) == 1);
  CHECK(ready.wait_for(1));
}

TEST_CASE_FIXTURE(Watching, "what cannot be watched is an error") {
  const UniqueFd file(::memfd_create("file", MFD_CLOEXEC));
  loop.run_sync([&] { CHECK_FALSE(loop.watch(file.get(), FdEvent::Readable, [] {})); });
}
