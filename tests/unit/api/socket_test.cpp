#include "api/socket.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tests/unit/api/server_fixture.h"

namespace vmmd::api::testing {

namespace {

UniqueFd listen_at(const std::string& path) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::listen(fd.get(), 1) == 0);
  return fd;
}

bool exists(const std::string& path) {
  struct stat info = {};
  return ::lstat(path.c_str(), &info) == 0;
}

}  // namespace

TEST_CASE("the API socket is a socket of mode 0600 that takes connections") {
  const TempDir dir;
  const std::string path = dir / "s";
  const mode_t before = ::umask(0);
  const auto socket = bind_api_socket(path);
  ::umask(before);
  REQUIRE(socket.has_value());
  struct stat info = {};
  REQUIRE(::stat(path.c_str(), &info) == 0);
  CHECK(S_ISSOCK(info.st_mode));
  CHECK((info.st_mode & 0777) == 0600);
  CHECK_NOTHROW(RawClient{path});
}

TEST_CASE("the socket's name appears when it listens, not before") {
  const TempDir dir;
  const UniqueFd changes(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  REQUIRE(::inotify_add_watch(changes.get(), (dir / "").c_str(), IN_CREATE | IN_MOVED_TO) >= 0);
  listen_at(dir / "s").reset();  // one is seen when it is bound
  const auto socket = bind_api_socket(dir / "s");
  REQUIRE(socket.has_value());
  std::vector<std::pair<std::string, std::uint32_t>> seen;
  alignas(inotify_event) std::array<char, 4096> events = {};
  const ssize_t length = ::read(changes.get(), events.data(), events.size());
  for (ssize_t at = 0; at < length;) {
    const auto* event = reinterpret_cast<const inotify_event*>(&events.at(static_cast<std::size_t>(at)));
    seen.emplace_back(event->name, event->mask);
    at += static_cast<ssize_t>(sizeof *event + event->len);
  }
  using Event = std::pair<std::string, std::uint32_t>;
  CHECK(seen ==
        std::vector<Event>{{"s", IN_CREATE}, {"s.lock", IN_CREATE}, {"s~", IN_CREATE}, {"s", IN_MOVED_TO}});
}

TEST_CASE("what an ended vmmd left beside its place is replaced, anything else there refused") {
  const TempDir dir;
  listen_at(dir / "s~").reset();
  CHECK(bind_api_socket(dir / "s").has_value());
  CHECK_FALSE(exists(dir / "s~"));
  std::ofstream(dir / "s~") << "precious";
  CHECK_FALSE(bind_api_socket(dir / "s").has_value());
  CHECK(std::filesystem::file_size(dir / "s~") == 8);
  CHECK_FALSE(exists(dir / "s.lock"));
}

TEST_CASE("a clean end leaves nothing behind") {
  const TempDir dir;
  const std::string path = dir / "s";
  {
    const auto socket = bind_api_socket(path);
    REQUIRE(socket.has_value());
    CHECK(exists(path));
    CHECK(exists(path + ".lock"));
  }
  CHECK_FALSE(exists(path));
  CHECK_FALSE(exists(path + ".lock"));
}

TEST_CASE("a socket of a live daemon is a conflict that names the path, and stays") {
  const TempDir dir;
  const std::string path = dir / "s";
  const auto first = bind_api_socket(path);
  REQUIRE(first.has_value());
  const auto second = bind_api_socket(path);
  REQUIRE_FALSE(second.has_value());
  CHECK(second.error().code == ErrorCode::Conflict);
  CHECK(second.error().messages[0].find(path) != std::string::npos);
  CHECK_NOTHROW(RawClient{path});
  CHECK(exists(path + ".lock"));
}

TEST_CASE("a socket of a program without our lock is a conflict, and stays") {
  const TempDir dir;
  const std::string path = dir / "s";
  const UniqueFd other = listen_at(path);
  const auto socket = bind_api_socket(path);
  REQUIRE_FALSE(socket.has_value());
  CHECK(socket.error().code == ErrorCode::Conflict);
  CHECK_NOTHROW(RawClient{path});
  CHECK_FALSE(exists(path + ".lock"));
}

TEST_CASE("a stale socket, with a stale lock file, is replaced") {
  const TempDir dir;
  const std::string path = dir / "s";
  listen_at(path).reset();
  std::ofstream(path + ".lock") << "";
  const auto socket = bind_api_socket(path);
  REQUIRE(socket.has_value());
  CHECK_NOTHROW(RawClient{path});
}

TEST_CASE("what is not a socket is refused untouched") {
  const TempDir dir;
  const std::string file = dir / "file";
  std::ofstream(file) << "precious";
  const std::string link = dir / "link";
  std::filesystem::create_symlink(file, link);
  const std::string folder = dir / "folder";
  std::filesystem::create_directory(folder);
  for (const std::string& path : {file, link, folder}) {
    const auto socket = bind_api_socket(path);
    REQUIRE_FALSE(socket.has_value());
    CHECK(socket.error().code == ErrorCode::BadRequest);
    CHECK(exists(path));
    CHECK_FALSE(exists(path + ".lock"));
  }
  CHECK(std::filesystem::file_size(file) == 8);
}

TEST_CASE("a lock file that is a link is refused") {
  const TempDir dir;
  const std::string path = dir / "s";
  std::filesystem::create_symlink(dir / "elsewhere", path + ".lock");
  CHECK_FALSE(bind_api_socket(path).has_value());
  CHECK_FALSE(exists(dir / "elsewhere"));
}

TEST_CASE("a path of 107 bytes is taken, one of 108 refused") {
  const TempDir dir;
  const std::string base = dir / "";
  const std::string longest = base + std::string(107 - base.size(), 'a');
  CHECK(bind_api_socket(longest).has_value());
  const auto socket = bind_api_socket(longest + "a");
  REQUIRE_FALSE(socket.has_value());
  CHECK(socket.error().messages[0].find("at most 107") != std::string::npos);
  CHECK_FALSE(bind_api_socket("").has_value());
}

TEST_CASE("a socket that somebody else put at our path is not removed") {
  const TempDir dir;
  const std::string path = dir / "s";
  UniqueFd other;
  {
    const auto socket = bind_api_socket(path);
    REQUIRE(socket.has_value());
    std::filesystem::rename(path, dir / "moved");
    other = listen_at(path);
  }
  CHECK(exists(path));
  CHECK_NOTHROW(RawClient{path});
}

TEST_CASE("moving an ApiSocket moves its claim") {
  const TempDir dir;
  const std::string path = dir / "s";
  auto socket = bind_api_socket(path);
  REQUIRE(socket.has_value());
  ApiSocket kept;
  kept = std::move(*socket);
  socket = bind_api_socket(dir / "t");
  CHECK(exists(path));
  CHECK(kept.path() == path);
}

TEST_CASE("fd= takes a listening Unix stream socket and nothing else") {
  const TempDir dir;
  UniqueFd listener = listen_at(dir / "s");
  const UniqueFd unconnected(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const UniqueFd datagram(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const UniqueFd inet(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const UniqueFd file(::open("/dev/null", O_RDWR | O_CLOEXEC));
  for (const int fd : {unconnected.get(), datagram.get(), inet.get(), file.get(), 12345}) {
    const auto refused = open_api_socket(fmt::format("fd={}", fd));
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error().code == ErrorCode::BadRequest);
  }
  CHECK_FALSE(open_api_socket("fd=").has_value());
  CHECK_FALSE(open_api_socket("fd=-1").has_value());
  auto taken = open_api_socket(fmt::format("fd={}", listener.get()));
  REQUIRE(taken.has_value());
  const UniqueFd same = taken->take_listener();
  CHECK(same.get() == listener.release());
  CHECK(taken->path().empty());
}

TEST_CASE("an inherited socket's path stays when we end") {
  const TempDir dir;
  const std::string path = dir / "s";
  UniqueFd listener = listen_at(path);
  {
    const auto taken = inherit_api_socket(listener.release());
  }
  CHECK(exists(path));
}

}  // namespace vmmd::api::testing
