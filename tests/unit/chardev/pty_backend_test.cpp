#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <termios.h>

#include "tests/unit/chardev/support.h"

using namespace vmmd;
using namespace vmmd::testing;
using chardev::CharMode;

namespace {

UniqueFd attach(const devices::CharBackend& pty) {
  UniqueFd fd(::open(pty.path().c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  REQUIRE(fd);
  return fd;
}

std::chrono::microseconds loop_cpu_time(loop::DeviceLoop& loop) {
  rusage usage = {};
  loop.run_sync([&] { ::getrusage(RUSAGE_THREAD, &usage); });
  return std::chrono::seconds(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         std::chrono::microseconds(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

}  // namespace

TEST_CASE("a pty has a path and is raw") {
  Host host;
  const auto pty = host.make(CharMode::Pty);
  CHECK(pty->path().starts_with("/dev/pts/"));
  const UniqueFd user = attach(*pty);
  termios settings = {};
  REQUIRE(::tcgetattr(user.get(), &settings) == 0);
  CHECK((settings.c_lflag & (ECHO | ICANON | ISIG)) == 0);
  CHECK((settings.c_oflag & OPOST) == 0);
}

TEST_CASE("a pty carries bytes both ways, unchanged") {
  Host host;
  Guest guest;
  const auto pty = host.make(CharMode::Pty);
  pty->set_receiver(&guest);
  const UniqueFd user = attach(*pty);
  std::string text = pattern(3000);
  pty->write(bytes(text));
  CHECK(read_exactly(user.get(), text.size()) == text);
  REQUIRE(write_all(user.get(), text));
  CHECK(guest.wait_for(text.size()) == text);
  host.settle();
  CHECK(pty->counters().tx_bytes == text.size());
  pty->set_receiver(nullptr);
}

TEST_CASE("a large output passes a reader's small buffer") {
  Host host;
  const auto pty = host.make(CharMode::Pty);
  const UniqueFd user = attach(*pty);
  const std::string text = pattern(400'000);
  std::size_t at = 0;
  std::string got;
  while (at < text.size()) {
    pty->write(bytes(text.substr(at, 10'000)));
    at += 10'000;
    got += read_exactly(user.get(), 10'000);
  }
  CHECK(got == text);
}

TEST_CASE("output without a reader is kept, the newest 64 KiB of it") {
  Host host;
  const auto pty = host.make(CharMode::Pty);
  host.settle();
  const std::string text = pattern((64 << 10) + 10);
  pty->write(bytes(text.substr(0, 1000)));
  pty->write(bytes(text.substr(1000)));
  CHECK(pty->counters().tx_dropped == 10);
  const UniqueFd user = attach(*pty);
  CHECK(read_exactly(user.get(), 64 << 10) == text.substr(10));
}

TEST_CASE("after a reader has gone, output waits for the next one") {
  Host host;
  Guest guest;
  const auto pty = host.make(CharMode::Pty);
  pty->set_receiver(&guest);
  std::string typed;
  for (int round = 0; round < 20; ++round) {
    const UniqueFd user = attach(*pty);
    if (round > 0) CHECK(read_exactly(user.get(), 7) == "between");
    pty->write(bytes("during"));
    CHECK(read_exactly(user.get(), 6) == "during");
    REQUIRE(write_all(user.get(), "k"));
    typed += "k";
    CHECK(guest.wait_for(typed.size()) == typed);
    // Only a hang-up that has been seen keeps what follows: make the backend see it.
    const_cast<UniqueFd&>(user).reset();
    host.settle();
    pty->write(bytes("between"));
  }
  CHECK(pty->counters().tx_dropped == 0);
  pty->set_receiver(nullptr);
}

TEST_CASE("what a reader typed before it left reaches the guest") {
  Host host;
  Guest guest(2);
  const auto pty = host.make(CharMode::Pty);
  pty->set_receiver(&guest);
  {
    const UniqueFd user = attach(*pty);
    REQUIRE(write_all(user.get(), "bye now"));
    REQUIRE(guest.wait_for_refusal());
  }
  host.settle();
  guest.make_room(100);
  pty->receiver_ready();
  CHECK(guest.wait_for(7) == "bye now");
  pty->set_receiver(nullptr);
}

TEST_CASE("input waits while the guest has no room") {
  Host host;
  Guest guest(3);
  const auto pty = host.make(CharMode::Pty);
  pty->set_receiver(&guest);
  const UniqueFd user = attach(*pty);
  REQUIRE(write_all(user.get(), "0123456789"));
  REQUIRE(guest.wait_for_refusal());
  CHECK(guest.wait_for(3) == "012");
  guest.make_room(4);
  pty->receiver_ready();
  CHECK(guest.wait_for(7) == "0123456");
  guest.make_room(100);
  pty->receiver_ready();
  CHECK(guest.wait_for(10) == "0123456789");
  host.settle();
  CHECK(pty->counters().rx_bytes == 10);
  pty->set_receiver(nullptr);
}

TEST_CASE("a pty that nobody has open costs no CPU time") {
  Host host;
  Guest guest;
  const auto pty = host.make(CharMode::Pty);
  pty->set_receiver(&guest);
  attach(*pty).reset();
  pty->write(bytes("into the ring"));
  const auto before = loop_cpu_time(host.loop);
  // Time has to pass for a spin to show; nothing is waited for.
  REQUIRE(::poll(nullptr, 0, 200) == 0);
  CHECK(loop_cpu_time(host.loop) - before < std::chrono::milliseconds(20));
  pty->set_receiver(nullptr);
}

TEST_CASE("drain does not wait for a reader that is not there") {
  Host host;
  const auto pty = host.make(CharMode::Pty);
  host.settle();
  pty->write(bytes("nobody reads this"));
  const auto start = std::chrono::steady_clock::now();
  pty->drain(kDeadline);
  CHECK(std::chrono::steady_clock::now() - start < kDeadline);
}

TEST_CASE("a former receiver is not called again") {
  Host host;
  Guest first;
  Guest second;
  const auto pty = host.make(CharMode::Pty);
  const UniqueFd user = attach(*pty);
  pty->set_receiver(&first);
  REQUIRE(write_all(user.get(), "one"));
  CHECK(first.wait_for(3) == "one");
  pty->set_receiver(&second);
  REQUIRE(write_all(user.get(), "two"));
  CHECK(second.wait_for(3) == "two");
  CHECK(first.wait_for(0) == "one");
  pty->set_receiver(nullptr);
}

TEST_CASE("a reader's terminal size is known when it has typed") {
  Host host;
  Guest guest;
  const auto pty = host.make(CharMode::Pty);
  pty->set_receiver(&guest);
  host.settle();
  CHECK(pty->size() == devices::CharSize{});
  const UniqueFd user = attach(*pty);
  winsize size = {};
  size.ws_col = 0x0184;
  size.ws_row = 0x0219;
  REQUIRE(::ioctl(user.get(), TIOCSWINSZ, &size) == 0);
  REQUIRE(write_all(user.get(), "x"));
  CHECK(guest.wait_for_resize());
  CHECK(pty->size() == devices::CharSize{.columns = 0x0184, .rows = 0x0219});
  pty->set_receiver(nullptr);
}
