#include "api/event_monitor.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tests/unit/api/server_fixture.h"

namespace vmmd::api::testing {

namespace {

std::string read_all(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

TEST_CASE("the monitor writes one line per event into a private file that it truncates") {
  const TempDir dir;
  const std::string path = dir / "events";
  std::ofstream(path) << "old";
  EventBus bus;
  bus.publish("vmm", "before");
  std::string expected;
  const auto handle = bus.subscribe(
      [&](const std::shared_ptr<const std::string>& line, std::uint64_t) { expected += *line + "\n"; });
  {
    const auto monitor = EventMonitor::open(path, bus);
    REQUIRE(monitor.has_value());
    bus.publish("vm", "booted");
    bus.publish("vm", "paused");
    CHECK((*monitor)->finish() == 0);
  }
  CHECK(read_all(path) == expected);
}

TEST_CASE("a new monitor file is 0600") {
  const TempDir dir;
  const std::string path = dir / "events";
  EventBus bus;
  const auto monitor = EventMonitor::open("path=" + path, bus);
  REQUIRE(monitor.has_value());
  struct stat info = {};
  REQUIRE(::stat(path.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
}

TEST_CASE("a full pipe loses whole lines, counts them and does not block") {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const UniqueFd reader(ends[0]);
  EventBus bus;
  std::string text;
  auto monitor = EventMonitor::open(fmt::format("fd={}", ends[1]), bus);
  REQUIRE(monitor.has_value());
  const std::string big(10'000, 'x');
  for (int i = 0; i < 100; ++i) bus.publish("vm", "e", {{"k", big}});
  const std::uint64_t lost = (*monitor)->finish();
  monitor->reset();
  char chunk[65536];
  for (ssize_t size = 0; (size = ::read(reader.get(), chunk, sizeof chunk)) > 0;) {
    text.append(chunk, static_cast<std::size_t>(size));
  }
  std::uint64_t lines = 0;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (stream.eof()) break;  // the pipe took only a part of the last one
    CHECK(line.ends_with("}}"));
    CHECK(line.starts_with("{\"sequence\":"));
    ++lines;
  }
  // A pipe holds 64 KiB; the line it took in part is neither whole nor lost.
  CHECK(lines >= 5);
  CHECK(lines + lost >= 99);
  CHECK(lines + lost <= 100);
}

TEST_CASE("a reader that went away costs lines, not the daemon") {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  EventBus bus;
  const auto monitor = EventMonitor::open(fmt::format("fd={}", ends[1]), bus);
  REQUIRE(monitor.has_value());
  ::close(ends[0]);
  bus.publish("vm", "e");
  CHECK((*monitor)->finish() == 1);
}

TEST_CASE("a descriptor that cannot be written is refused") {
  EventBus bus;
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const auto read_only = EventMonitor::open(fmt::format("fd={}", null.get()), bus);
  REQUIRE_FALSE(read_only.has_value());
  CHECK(read_only.error().code == ErrorCode::BadRequest);
  CHECK_FALSE(EventMonitor::open("fd=12345", bus).has_value());
  CHECK_FALSE(EventMonitor::open("fd=1x", bus).has_value());
  CHECK_FALSE(EventMonitor::open("", bus).has_value());
}

TEST_CASE("a FIFO without a reader is refused with the reason") {
  const TempDir dir;
  const std::string path = dir / "fifo";
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  EventBus bus;
  const auto monitor = EventMonitor::open(path, bus);
  REQUIRE_FALSE(monitor.has_value());
  CHECK(monitor.error().messages[0].find("a FIFO needs its reader first") != std::string::npos);
}

}  // namespace vmmd::api::testing
