#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <fstream>
#include <vector>

#include "tests/unit/chardev/support.h"

using namespace vmmd;
using namespace vmmd::testing;
using chardev::CharMode;

namespace {

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  REQUIRE(path.size() < sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

UniqueFd make_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(fd);
  return fd;
}

void connect_to(int fd, const std::string& path) {
  const sockaddr_un address = address_of(path);
  REQUIRE(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
}

UniqueFd connect_to(const std::string& path) {
  UniqueFd fd = make_socket();
  connect_to(fd.get(), path);
  return fd;
}

}  // namespace

TEST_CASE("a socket carries bytes both ways") {
  Host host;
  const TempDir dir;
  Guest guest;
  const auto socket = host.make(CharMode::Socket, dir / "s");
  socket->set_receiver(&guest);
  const UniqueFd user = connect_to(dir / "s");
  const std::string text = pattern(300'000);
  REQUIRE(write_all(user.get(), text));
  CHECK(guest.wait_for(text.size()) == text);
  socket->write(bytes(text));  // more than is kept without a client, but by now there is one
  CHECK(read_exactly(user.get(), text.size()) == text);
  socket->set_receiver(nullptr);
}

TEST_CASE("the socket is the owner's only, and gone afterwards") {
  Host host;
  const TempDir dir;
  {
    const auto socket = host.make(CharMode::Socket, dir / "s");
    struct stat info = {};
    REQUIRE(::stat((dir / "s").c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0600);
    CHECK(socket->path() == dir / "s");
  }
  CHECK_FALSE(std::filesystem::exists(dir / "s"));
}

TEST_CASE("output without a client waits for one, the newest 64 KiB of it") {
  Host host;
  const TempDir dir;
  const auto socket = host.make(CharMode::Socket, dir / "s");
  const std::string text = pattern((64 << 10) + 5);
  socket->write(bytes(text));
  CHECK(socket->counters().tx_dropped == 5);
  const UniqueFd user = connect_to(dir / "s");
  CHECK(read_exactly(user.get(), 64 << 10) == text.substr(5));
}

TEST_CASE("a second client waits until the first has left") {
  Host host;
  const TempDir dir;
  Guest guest;
  const auto socket = host.make(CharMode::Socket, dir / "s");
  socket->set_receiver(&guest);
  UniqueFd first = connect_to(dir / "s");
  REQUIRE(write_all(first.get(), "1"));
  REQUIRE(guest.wait_for(1) == "1");
  const UniqueFd second = connect_to(dir / "s");
  REQUIRE(write_all(second.get(), "2"));
  socket->write(bytes("for the first"));
  CHECK(read_exactly(first.get(), 13) == "for the first");
  CHECK(guest.wait_for(1) == "1");
  first.reset();
  CHECK(guest.wait_for(2) == "12");
  socket->write(bytes("for the second"));
  CHECK(read_exactly(second.get(), 14) == "for the second");
  socket->set_receiver(nullptr);
}

TEST_CASE("a client that ends its own output still gets ours") {
  Host host;
  const TempDir dir;
  Guest guest;
  const auto socket = host.make(CharMode::Socket, dir / "s");
  socket->set_receiver(&guest);
  const UniqueFd user = connect_to(dir / "s");
  REQUIRE(write_all(user.get(), "ls\n"));
  REQUIRE(::shutdown(user.get(), SHUT_WR) == 0);
  CHECK(guest.wait_for(3) == "ls\n");
  host.settle();
  socket->write(bytes("answer"));
  CHECK(read_exactly(user.get(), 6) == "answer");
  socket->set_receiver(nullptr);
}

TEST_CASE("a client that ends its output and then leaves makes room for the next") {
  Host host;
  const TempDir dir;
  Guest guest;
  const auto socket = host.make(CharMode::Socket, dir / "s");
  socket->set_receiver(&guest);
  UniqueFd user = connect_to(dir / "s");
  REQUIRE(write_all(user.get(), "a"));
  REQUIRE(::shutdown(user.get(), SHUT_WR) == 0);
  CHECK(guest.wait_for(1) == "a");
  user.reset();
  const UniqueFd next = connect_to(dir / "s");
  REQUIRE(write_all(next.get(), "b"));
  CHECK(guest.wait_for(2) == "ab");
  socket->set_receiver(nullptr);
}

TEST_CASE("a client that left input behind does not keep the next one out, and its input arrives first") {
  Host host;
  const TempDir dir;
  Guest guest(1);
  const auto socket = host.make(CharMode::Socket, dir / "s");
  socket->set_receiver(&guest);
  UniqueFd first = connect_to(dir / "s");
  REQUIRE(write_all(first.get(), std::string(1000, 'x') + "end"));
  REQUIRE(guest.wait_for_refusal());
  first.reset();
  const UniqueFd second = connect_to(dir / "s");
  REQUIRE(write_all(second.get(), "second"));
  socket->write(bytes("hello second"));
  CHECK(read_exactly(second.get(), 12) == "hello second");
  guest.make_room(10'000);
  socket->receiver_ready();
  CHECK(guest.wait_for(1009) == std::string(1000, 'x') + "endsecond");
  CHECK(socket->counters().rx_dropped == 0);
  socket->set_receiver(nullptr);
}

TEST_CASE("a guest that does not read holds its client back instead of losing input") {
  Host host;
  const TempDir dir;
  Guest guest(0);
  const auto socket = host.make(CharMode::Socket, dir / "s");
  socket->set_receiver(&guest);
  const UniqueFd user = connect_to(dir / "s");
  const std::string text = pattern(1 << 20);
  std::size_t sent = 0;
  REQUIRE(::send(user.get(), text.data(), 1, 0) == 1);
  sent = 1;
  REQUIRE(guest.wait_for_refusal());
  ssize_t n = 0;
  while ((n = ::send(user.get(), text.data() + sent, text.size() - sent, MSG_DONTWAIT)) > 0) {
    sent += static_cast<std::size_t>(n);
  }
  CHECK(sent < text.size());
  guest.make_room(text.size());
  socket->receiver_ready();
  CHECK(guest.wait_for(sent) == text.substr(0, sent));
  socket->set_receiver(nullptr);
}

TEST_CASE("a stale socket is replaced") {
  Host host;
  const TempDir dir;
  {
    const UniqueFd dead = make_socket();
    const sockaddr_un address = address_of(dir / "s");
    REQUIRE(::bind(dead.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  }
  REQUIRE(std::filesystem::exists(dir / "s"));
  const auto socket = host.make(CharMode::Socket, dir / "s");
  const UniqueFd user = connect_to(dir / "s");
  socket->write(bytes("alive"));
  CHECK(read_exactly(user.get(), 5) == "alive");
}

TEST_CASE("a live socket is refused, and its client feels nothing") {
  Host host;
  const TempDir dir;
  const auto socket = host.make(CharMode::Socket, dir / "s");
  const UniqueFd user = connect_to(dir / "s");
  socket->write(bytes("a"));
  CHECK(read_exactly(user.get(), 1) == "a");
  const Error error = host.refuse(CharMode::Socket, dir / "s");
  CHECK(error.code == ErrorCode::Conflict);
  CHECK(error.to_string().find(dir / "s") != std::string::npos);
  socket->write(bytes("b"));
  CHECK(read_exactly(user.get(), 1) == "b");
}

TEST_CASE("other files are never replaced, impossible paths are refused") {
  Host host;
  const TempDir dir;
  std::ofstream(dir / "file") << "precious";
  CHECK(host.refuse(CharMode::Socket, dir / "file").code == ErrorCode::Conflict);
  CHECK(std::filesystem::file_size(dir / "file") == 8);
  CHECK(host.refuse(CharMode::Socket, dir / "none/s").code == ErrorCode::BadRequest);
  CHECK(host.refuse(CharMode::Socket, dir / std::string(200, 'x')).to_string().find("107") !=
        std::string::npos);
  CHECK(host.refuse(CharMode::Socket, "").code == ErrorCode::BadRequest);
}

TEST_CASE("a file that took the socket's place stays") {
  Host host;
  const TempDir dir;
  {
    const auto socket = host.make(CharMode::Socket, dir / "s");
    std::filesystem::remove(dir / "s");
    std::ofstream(dir / "s") << "other";
  }
  CHECK(std::filesystem::exists(dir / "s"));
}

TEST_CASE("out of descriptors, a client is turned away and the loop does not spin") {
  Host host;
  const TempDir dir;
  const auto socket = host.make(CharMode::Socket, dir / "s");
  host.settle();
  const UniqueFd turned_away = make_socket();
  UniqueFd next = make_socket();
  rlimit before = {};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  const UniqueFd highest(::fcntl(next.get(), F_DUPFD_CLOEXEC, 0));
  rlimit tight = before;
  tight.rlim_cur = static_cast<rlim_t>(highest.get());
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &tight) == 0);
  connect_to(turned_away.get(), dir / "s");
  const std::string got = read_exactly(turned_away.get(), 1);
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
  CHECK(got.empty());
  connect_to(next.get(), dir / "s");
  socket->write(bytes("served"));
  CHECK(read_exactly(next.get(), 6) == "served");
}
