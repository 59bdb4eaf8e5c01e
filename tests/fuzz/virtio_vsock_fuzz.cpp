#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <deque>
#include <filesystem>
#include <string>

#include "base/unix_socket.h"
#include "devices/virtio/vsock/vsock.h"
#include "tests/fuzz/support/virtio_fuzz.h"

using namespace vmmd;
using namespace vmmd::devices;

namespace {

constexpr std::uint64_t kCid = 3;

struct Sockets {
  Sockets() {
    std::string pattern = (std::filesystem::temp_directory_path() / "vmmd-fuzz-XXXXXX").native();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    dir = pattern;
    device = *UnixListener::open(dir + "/v", 128);
    service = *UnixListener::open(dir + "/v_1", 128);
  }
  ~Sockets() {
    device.reset();
    service.reset();
    ::rmdir(dir.c_str());
  }
  std::string dir;
  std::unique_ptr<UnixListener> device;
  std::unique_ptr<UnixListener> service;  // the guest's port 1 of the host
};

}  // namespace

// The guest sends packets with plausible headers and any content; the host's programs connect, write, read,
// end their output and go away.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Sockets sockets;
  fuzz::Input input(data, size);
  testing::FakeEventLoop loop;
  testing::FakeGuest guest(512 << 10);
  VirtioVsock device(loop, kCid, {sockets.device->fd(), sockets.device->path()});
  VirtioVsock cold(loop, kCid, {-1, sockets.device->path()});
  std::deque<UniqueFd> programs;
  const GuestAddress packets = guest.allocate(64 << 10);
  fuzz::play_virtio(
      input, device, cold, loop, guest, [&](fuzz::Input& more, testing::RunningDevice& running) {
        const auto what = more.take<std::uint8_t>();
        const auto program = more.take<std::uint8_t>();
        switch (what % 8) {
          case 0:
            if (programs.size() < 16) {
              if (auto socket = connect_unix(sockets.device->path())) {
                const std::string greeting = "CONNECT " + std::to_string(what / 8) + "\n";
                static_cast<void>(::send(socket->get(), greeting.data(), greeting.size(), MSG_NOSIGNAL));
                programs.push_back(std::move(*socket));
              }
            }
            break;
          case 1:
            for (UniqueFd socket; programs.size() < 16;) {
              socket.reset(::accept4(sockets.service->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
              if (!socket) break;
              programs.push_back(std::move(socket));
            }
            break;
          case 2:
            if (!programs.empty()) {
              const std::string text = more.take_bytes(program);
              static_cast<void>(::send(programs[what / 8U % programs.size()].get(), text.data(), text.size(),
                                       MSG_NOSIGNAL | MSG_DONTWAIT));
            }
            break;
          case 3:
            if (!programs.empty()) {
              std::array<char, 70000> text;
              static_cast<void>(
                  ::recv(programs[program % programs.size()].get(), text.data(), text.size(), MSG_DONTWAIT));
            }
            break;
          case 4:
            if (!programs.empty()) {
              if (what / 8 % 2 == 0) {
                ::shutdown(programs[program % programs.size()].get(), SHUT_WR);
              } else {
                programs.erase(programs.begin() + program % static_cast<std::ptrdiff_t>(programs.size()));
              }
            }
            break;
          default: {  // a packet of the guest
            if (running.driver(VirtioVsock::kTransmit).avail_index() > 200) break;
            VsockHeader header{.src_cid = kCid,
                               .dst_cid = kVsockHostCid,
                               .src_port = program % 4U,
                               .dst_port = program / 4 % 4 == 0 ? VsockMuxer::kFirstPort + program / 16U : 1U,
                               .length = more.take<std::uint16_t>(),
                               .type = kVsockStream,
                               .op = static_cast<VsockOp>(more.take<std::uint8_t>() % 9),
                               .flags = more.take<std::uint8_t>() % 4U,
                               .buf_alloc = more.take<std::uint32_t>(),
                               .fwd_cnt = more.take<std::uint32_t>()};
            static_cast<void>(guest.memory().write(packets, header.bytes()));
            running.driver(VirtioVsock::kTransmit)
                .add({{packets, static_cast<std::uint32_t>(VsockHeader::kSize + header.length % 60000)}}, {});
            running.notify(VirtioVsock::kTransmit);
            break;
          }
        }
      });
  for (UniqueFd socket;;) {  // the next input starts with an empty backlog
    socket.reset(::accept4(sockets.service->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) break;
  }
  for (UniqueFd socket;;) {
    socket.reset(::accept4(sockets.device->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) break;
  }
  return 0;
}
