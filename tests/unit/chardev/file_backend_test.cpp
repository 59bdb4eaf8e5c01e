#include <fcntl.h>
#include <sys/stat.h>

#include <fstream>
#include <sstream>

#include "tests/unit/chardev/support.h"

using namespace vmmd;
using namespace vmmd::testing;
using chardev::CharMode;

namespace {
std::string file_contents(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}
}  // namespace

TEST_CASE("Off is no device, Null swallows") {
  Host host;
  auto off = chardev::make_char_backend({CharMode::Off, ""}, host.loop);
  REQUIRE(off);
  CHECK(*off == nullptr);
  const auto null = host.make(CharMode::Null);
  null->write(bytes("gone"));
  CHECK(null->counters().tx_bytes == 4);
}

TEST_CASE("a file is created for its owner only and has everything after drain") {
  Host host;
  const TempDir dir;
  const auto file = host.make(CharMode::File, dir / "out");
  const std::string text = pattern(300'000);
  file->write(bytes(text));
  file->drain(kDeadline);
  CHECK(file_contents(dir / "out") == text);
  struct stat info = {};
  REQUIRE(::stat((dir / "out").c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  CHECK(file->counters().tx_bytes == text.size());
  CHECK(file->path() == dir / "out");
}

TEST_CASE("an existing file is truncated") {
  Host host;
  const TempDir dir;
  std::ofstream(dir / "out") << "something longer";
  const auto file = host.make(CharMode::File, dir / "out");
  file->write(bytes("new"));
  file->drain(kDeadline);
  CHECK(file_contents(dir / "out") == "new");
}

TEST_CASE("output written before the loop starts or after it stopped reaches the file") {
  loop::DeviceLoop loop;
  const TempDir dir;
  auto made = chardev::make_char_backend({CharMode::File, dir / "out"}, loop);
  REQUIRE(made);
  auto file = std::move(*made);
  file->write(bytes("early "));
  REQUIRE(loop.start());
  loop.run_sync([] {});
  loop.stop();
  file->write(bytes("late"));
  file->drain(kDeadline);
  CHECK(file_contents(dir / "out") == "early late");
}

TEST_CASE("what the file refuses is dropped and counted, and the loop goes on") {
  Host host;
  const auto full = host.make(CharMode::File, "/dev/full");
  full->write(bytes("12345"));
  host.settle();
  full->drain(kDeadline);
  CHECK(full->counters().tx_dropped == 5);
  CHECK(full->counters().tx_bytes == 0);
  full->write(bytes("678"));
  host.settle();
  CHECK(full->counters().tx_dropped == 8);
}

TEST_CASE("a character device works") {
  Host host;
  const auto null = host.make(CharMode::File, "/dev/null");
  null->write(bytes("12345"));
  null->drain(kDeadline);
  CHECK(null->counters().tx_bytes == 5);
}

TEST_CASE("paths that cannot be written are refused by name") {
  Host host;
  const TempDir dir;
  const Error missing = host.refuse(CharMode::File, dir / "none/out");
  CHECK(missing.code == ErrorCode::BadRequest);
  CHECK(missing.to_string().find("none/out") != std::string::npos);
  CHECK(host.refuse(CharMode::File, dir / ".").to_string().find("directory") != std::string::npos);
  CHECK(host.refuse(CharMode::File, "").code == ErrorCode::BadRequest);
}

TEST_CASE("a FIFO without a reader blocks nobody and gives its data to the reader that comes") {
  Host host;
  const TempDir dir;
  REQUIRE(::mkfifo((dir / "fifo").c_str(), 0600) == 0);
  const auto fifo = host.make(CharMode::File, dir / "fifo");
  const std::string text = pattern(500'000);  // beyond the pipe's 64 KiB
  fifo->write(bytes(text));
  const UniqueFd reader(::open((dir / "fifo").c_str(), O_RDONLY | O_NONBLOCK));
  REQUIRE(reader);
  CHECK(read_exactly(reader.get(), text.size()) == text);
  CHECK(fifo->counters().tx_dropped == 0);
}

TEST_CASE("readers of a FIFO come and go") {
  Host host;
  const TempDir dir;
  REQUIRE(::mkfifo((dir / "fifo").c_str(), 0600) == 0);
  const auto fifo = host.make(CharMode::File, dir / "fifo");
  UniqueFd reader(::open((dir / "fifo").c_str(), O_RDONLY | O_NONBLOCK));
  fifo->write(bytes("first"));
  CHECK(read_exactly(reader.get(), 5) == "first");
  reader.reset();
  fifo->write(bytes("second"));
  reader.reset(::open((dir / "fifo").c_str(), O_RDONLY | O_NONBLOCK));
  CHECK(read_exactly(reader.get(), 6) == "second");
}

TEST_CASE("beyond its bound the queue drops the newest, and every byte is accounted for") {
  Host host;
  const TempDir dir;
  REQUIRE(::mkfifo((dir / "fifo").c_str(), 0600) == 0);
  const auto fifo = host.make(CharMode::File, dir / "fifo");
  const std::string text = pattern(3 << 20);
  for (std::size_t at = 0; at < text.size(); at += 4096) fifo->write(bytes(text.substr(at, 4096)));
  fifo->drain(std::chrono::milliseconds(0));
  const auto counters = fifo->counters();
  CHECK(counters.tx_queued <= (1 << 20));
  CHECK(counters.tx_dropped >= text.size() - (1 << 20) - (128 << 10));
  CHECK(counters.tx_bytes + counters.tx_queued + counters.tx_dropped == text.size());
  const UniqueFd reader(::open((dir / "fifo").c_str(), O_RDONLY | O_NONBLOCK));
  const std::size_t kept = text.size() - counters.tx_dropped;
  const std::string got = read_exactly(reader.get(), kept);
  CHECK(got.size() == kept);
  CHECK(got.substr(0, 1 << 20) == text.substr(0, 1 << 20));
}
