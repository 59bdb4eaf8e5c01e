#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>

#include <array>
#include <utility>

#include "tests/unit/chardev/support.h"

using namespace vmmd;
using namespace vmmd::testing;
using chardev::CharMode;

namespace {

/// Puts other files in the place of stdin and stdout until its end.
class Stdio {
 public:
  Stdio(int in, int out)
      : in_(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)), out_(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)) {
    REQUIRE(::dup2(in, STDIN_FILENO) == STDIN_FILENO);
    REQUIRE(::dup2(out, STDOUT_FILENO) == STDOUT_FILENO);
  }
  ~Stdio() {
    if (in_) ::dup2(in_.get(), STDIN_FILENO);
    if (out_) ::dup2(out_.get(), STDOUT_FILENO);
  }
  Stdio(const Stdio&) = delete;
  Stdio& operator=(const Stdio&) = delete;

 private:
  UniqueFd in_;
  UniqueFd out_;
};

struct Pipe {
  UniqueFd read;
  UniqueFd write;
  Pipe() {
    std::array<int, 2> fds = {};
    REQUIRE(::pipe2(fds.data(), O_CLOEXEC) == 0);
    read.reset(fds[0]);
    write.reset(fds[1]);
  }
};

struct Terminal {
  UniqueFd master;
  UniqueFd slave;
  Terminal() : master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)) {
    REQUIRE(master);
    REQUIRE(::unlockpt(master.get()) == 0);
    std::array<char, 64> name = {};
    REQUIRE(::ptsname_r(master.get(), name.data(), name.size()) == 0);
    slave.reset(::open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
    REQUIRE(slave);
  }
  [[nodiscard]] tcflag_t local_flags() const {
    termios settings = {};
    REQUIRE(::tcgetattr(slave.get(), &settings) == 0);
    return settings.c_lflag;
  }
};

}  // namespace

TEST_CASE("stdin and stdout that are pipes") {
  Host host;
  Guest guest;
  Pipe in;
  Pipe out;
  const Stdio stdio(in.read.get(), out.write.get());
  const auto tty = host.make(CharMode::Tty);
  tty->set_receiver(&guest);
  tty->write(bytes("to the user"));
  CHECK(read_exactly(out.read.get(), 11) == "to the user");
  REQUIRE(write_all(in.write.get(), "to the guest"));
  CHECK(guest.wait_for(12) == "to the guest");
  tty->set_receiver(nullptr);
}

TEST_CASE("the files that others share with us stay blocking") {
  Host host;
  Pipe in;
  Pipe out;
  const Stdio stdio(in.read.get(), out.write.get());
  const auto tty = host.make(CharMode::Tty);
  host.settle();
  CHECK((::fcntl(in.read.get(), F_GETFL) & O_NONBLOCK) == 0);
  CHECK((::fcntl(out.write.get(), F_GETFL) & O_NONBLOCK) == 0);
}

TEST_CASE("the end of stdin ends input only") {
  Host host;
  Guest guest;
  Pipe in;
  Pipe out;
  const Stdio stdio(in.read.get(), out.write.get());
  const auto tty = host.make(CharMode::Tty);
  tty->set_receiver(&guest);
  REQUIRE(write_all(in.write.get(), "last"));
  in.write.reset();
  CHECK(guest.wait_for(4) == "last");
  host.settle();
  tty->write(bytes("still here"));
  CHECK(read_exactly(out.read.get(), 10) == "still here");
  tty->set_receiver(nullptr);
}

TEST_CASE("a stdout that nobody reads blocks neither the guest nor the loop, one that is gone drops") {
  Host host;
  Pipe in;
  Pipe out;
  const Stdio stdio(in.read.get(), out.write.get());
  const auto tty = host.make(CharMode::Tty);
  const std::string text = pattern(200'000);
  host.settle();
  tty->write(bytes(text));
  host.settle();
  CHECK(tty->counters().tx_queued > 0);
  CHECK(tty->counters().tx_dropped == 0);
  out.read.reset();
  tty->drain(kDeadline);
  host.settle();
  const auto counters = tty->counters();
  CHECK(counters.tx_queued == 0);
  CHECK(counters.tx_bytes + counters.tx_dropped == text.size());
}

TEST_CASE("stdin from a file and stdout into a file, at their offsets") {
  Host host;
  Guest guest;
  const TempDir dir;
  const UniqueFd in(::open((dir / "in").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const UniqueFd out(::open((dir / "out").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  REQUIRE(write_all(in.get(), "skip,typed"));
  REQUIRE(::lseek(in.get(), 5, SEEK_SET) == 5);
  REQUIRE(write_all(out.get(), "before,"));
  const Stdio stdio(in.get(), out.get());
  const auto tty = host.make(CharMode::Tty);
  tty->set_receiver(&guest);
  CHECK(guest.wait_for(5) == "typed");
  tty->write(bytes("after"));
  host.settle();
  tty->drain(kDeadline);
  REQUIRE(::lseek(out.get(), 0, SEEK_SET) == 0);
  CHECK(read_exactly(out.get(), 12) == "before,after");
  tty->set_receiver(nullptr);
}

TEST_CASE("a terminal is raw while in use and gets its settings back") {
  Host host;
  Guest guest;
  const Terminal terminal;
  const Stdio stdio(terminal.slave.get(), terminal.slave.get());
  const tcflag_t before = terminal.local_flags();
  REQUIRE((before & ICANON) != 0);
  {
    const auto tty = host.make(CharMode::Tty);
    CHECK((terminal.local_flags() & (ICANON | ECHO | ISIG)) == 0);
    tty->set_receiver(&guest);
    REQUIRE(write_all(terminal.master.get(), "\x03"));
    CHECK(guest.wait_for(1) == "\x03");
    tty->write(bytes("line\n"));
    CHECK(read_exactly(terminal.master.get(), 6) == "line\r\n");
    tty->set_receiver(nullptr);
  }
  CHECK(terminal.local_flags() == before);
}

TEST_CASE("stdin and stdout serve one device at a time") {
  Host host;
  Pipe in;
  Pipe out;
  const Stdio stdio(in.read.get(), out.write.get());
  {
    const auto tty = host.make(CharMode::Tty);
    CHECK(host.refuse(CharMode::Tty).code == ErrorCode::Conflict);
  }
  CHECK(host.make(CharMode::Tty) != nullptr);
}

TEST_CASE("SIGWINCH tells of the terminal's new size") {
  Host host;
  Guest guest;
  const Terminal terminal;
  const Stdio stdio(terminal.slave.get(), terminal.slave.get());
  winsize size = {};
  size.ws_col = 0x0184;
  size.ws_row = 0x0219;
  const auto tty = host.make(CharMode::Tty);
  host.settle();
  CHECK(tty->size() == devices::CharSize{});
  tty->set_receiver(&guest);
  REQUIRE(::ioctl(terminal.master.get(), TIOCSWINSZ, &size) == 0);
  REQUIRE(::raise(SIGWINCH) == 0);
  CHECK(guest.wait_for_resize());
  CHECK(tty->size() == devices::CharSize{.columns = 0x0184, .rows = 0x0219});
  tty->set_receiver(nullptr);
}
