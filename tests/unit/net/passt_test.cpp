#include "daemon/net/passt.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>

#include <doctest/doctest.h>

#include "tests/unit/support/temp_dir.h"

using namespace vmmd;
using devices::kNetHeaderSize;
using devices::NetIo;

namespace {

/// A passt that the test plays.
struct Peer {
  Peer() {
    path = dir / "passt";
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    listener.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
    REQUIRE(::listen(listener.get(), 1) == 0);
    auto connected = net::PasstBackend::connect(path);
    REQUIRE(connected.has_value());
    backend = std::move(*connected);
    socket.reset(::accept(listener.get(), nullptr, nullptr));
  }
  void write(const std::string& bytes) const {
    REQUIRE(::send(socket.get(), bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  }
  [[nodiscard]] std::string read(std::size_t size) const {
    std::string bytes(size, '\0');
    bytes.resize(static_cast<std::size_t>(
        std::max<ssize_t>(0, ::recv(socket.get(), bytes.data(), size, MSG_DONTWAIT))));
    return bytes;
  }
  NetIo send(std::string frame) const {
    std::string header(kNetHeaderSize, '\x5a');
    const std::array<iovec, 2> parts{{{header.data(), header.size()}, {frame.data(), frame.size()}}};
    return backend->send(0, parts);
  }
  NetIo receive(std::size_t room, std::string& frame) const {
    frame.assign(room, '\x5a');
    const std::array<iovec, 2> parts{{{frame.data(), 20}, {frame.data() + 20, room - 20}}};
    std::size_t size = 0;
    const NetIo outcome = backend->receive(0, parts, size);
    if (outcome == NetIo::Done) frame.resize(size);
    return outcome;
  }

  testing::TempDir dir;
  std::string path;
  UniqueFd listener;
  UniqueFd socket;
  std::unique_ptr<net::PasstBackend> backend;
};

const std::string kFrame = "0123456789abcdefghij";
const std::string kLength("\0\0\0\x14", 4);

}  // namespace

TEST_CASE("passt: a frame goes out behind its length, without the virtio header") {
  const Peer peer;
  CHECK(peer.send(kFrame) == NetIo::Done);
  CHECK(peer.read(100) == kLength + kFrame);
}

TEST_CASE("passt: frames come in whole, however they are cut") {
  const Peer peer;
  std::string frame;
  peer.write(kLength.substr(0, 2));
  CHECK(peer.receive(100, frame) == NetIo::Again);
  peer.write(kLength.substr(2) + kFrame.substr(0, 5));
  CHECK(peer.receive(100, frame) == NetIo::Again);
  peer.write(kFrame.substr(5) + kLength + kFrame);
  CHECK(peer.receive(100, frame) == NetIo::Done);
  CHECK(frame == std::string(kNetHeaderSize, '\0') + kFrame);
  CHECK(peer.receive(100, frame) == NetIo::Done);
  CHECK(peer.receive(100, frame) == NetIo::Again);
}

TEST_CASE("passt: a frame without room is lost, the next one comes") {
  const Peer peer;
  std::string frame;
  peer.write(kLength + kFrame + kLength + kFrame);
  CHECK(peer.receive(kNetHeaderSize + kFrame.size() - 1, frame) == NetIo::Dropped);
  CHECK(peer.receive(kNetHeaderSize + kFrame.size(), frame) == NetIo::Done);
}

TEST_CASE("passt: a length that no frame has ends the connection") {
  const Peer peer;
  std::string frame;
  peer.write("\xff\xff\xff\xff");
  CHECK(peer.receive(100, frame) == NetIo::Failed);
  CHECK(peer.backend->failure().find("4294967295") != std::string::npos);
  CHECK(peer.backend->fd(0) == -1);
  CHECK(peer.send(kFrame) == NetIo::Failed);
}

TEST_CASE("passt: a peer that is gone is a failure in both directions") {
  Peer peer;
  std::string frame;
  peer.socket.reset();
  CHECK(peer.receive(100, frame) == NetIo::Failed);
  Peer other;
  other.socket.reset();
  CHECK(other.send(kFrame) == NetIo::Failed);
}

TEST_CASE("passt: a full socket keeps frames whole and in order") {
  const Peer peer;
  const std::string big(60'000, 'x');
  std::size_t sent = 0;
  while (sent < 1000 && peer.send(big) == NetIo::Done) ++sent;
  REQUIRE(sent < 1000);
  std::size_t received = 0;
  for (std::string got = peer.read(1 << 20); !got.empty(); got = peer.read(1 << 20)) received += got.size();
  CHECK(peer.send(kFrame) == NetIo::Done);
  std::string rest;
  for (std::string got = peer.read(1 << 20); !got.empty(); got = peer.read(1 << 20)) rest += got;
  CHECK(received + rest.size() == sent * (4 + big.size()) + 4 + kFrame.size());
  CHECK(rest.substr(rest.size() - kFrame.size() - 4) == kLength + kFrame);
}

TEST_CASE("passt: says where it is missing") {
  const auto missing = net::PasstBackend::connect("/nonexistent/passt");
  REQUIRE_FALSE(missing.has_value());
  CHECK(missing.error().to_string().find("/nonexistent/passt") != std::string::npos);
}
