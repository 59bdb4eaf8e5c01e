#include "daemon/chardev/socket_backend.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace vmmd::chardev {

namespace {

constexpr int kBacklog = 8;

UniqueFd open_reserve() {
  return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
}

Result<sockaddr_un> make_address(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path) || path.find('\0') != std::string::npos) {
    return fail(ErrorCode::BadRequest, "socket path \"{}\" must have 1 to {} bytes; use a shorter directory",
                path, sizeof(address.sun_path) - 1);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Result<UniqueFd> make_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno(ErrorCode::Internal, errno, "cannot create a Unix socket");
  return fd;
}

/// Takes away a socket file that nobody listens on.
Status remove_stale(const sockaddr_un& address, const std::string& path) {
  struct stat info = {};
  if (::lstat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return {};
    return fail_errno(ErrorCode::BadRequest, errno, "cannot look at socket path {}", path);
  }
  if (!S_ISSOCK(info.st_mode)) {
    return fail(ErrorCode::Conflict, "{} exists and is not a socket; remove it or choose another path", path);
  }
  VMMD_ASSIGN(const UniqueFd probe, make_socket());
  // EAGAIN: its backlog is full, so it is alive.
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ||
      errno == EAGAIN) {
    return fail(ErrorCode::Conflict, "socket {} is in use by another process; choose another path", path);
  }
  if (errno != ECONNREFUSED) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot tell whether socket {} is in use", path);
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot remove the stale socket {}", path);
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<SocketBackend>> SocketBackend::open(const std::string& path, loop::DeviceLoop& loop) {
  VMMD_ASSIGN(const sockaddr_un address, make_address(path));
  VMMD_TRY(remove_stale(address, path));
  VMMD_ASSIGN(UniqueFd listener, make_socket());
  // On Linux the mode of an unbound socket becomes that of its file: no moment with wider permissions, and no
  // umask() that other threads would feel.
  if (::fchmod(listener.get(), 0600) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot restrict socket {}", path);
  }
  if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return fail_errno(errno == EADDRINUSE ? ErrorCode::Conflict : ErrorCode::BadRequest, errno,
                      "cannot create socket {}", path);
  }
  if (::listen(listener.get(), kBacklog) != 0) {
    const int error = errno;
    ::unlink(path.c_str());
    return fail_errno(ErrorCode::Internal, error, "cannot listen on socket {}", path);
  }
  std::unique_ptr<SocketBackend> backend(new SocketBackend(path, std::move(listener), loop));
  if (!backend->listener_->is_open())
    return fail(ErrorCode::Internal, "cannot wait for clients of socket {}: epoll takes no more", path);
  return backend;
}

SocketBackend::SocketBackend(std::string path, UniqueFd listener, loop::DeviceLoop& loop)
    : StreamBackend(loop, NoPeer::Keep),
      path_(std::move(path)),
      listener_(make_descriptor(std::move(listener))),
      reserve_(open_reserve()) {
  struct stat info = {};
  if (::lstat(path_.c_str(), &info) == 0) {
    device_ = info.st_dev;
    inode_ = info.st_ino;
  }
  later([this] { accept_client(); });
}

SocketBackend::~SocketBackend() {
  shut_down();
  struct stat info = {};
  if (::lstat(path_.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_) {
    ::unlink(path_.c_str());
  }
}

void SocketBackend::wait_for_client() {
  listener_->async_wait(Descriptor::wait_read, guarded([this] { accept_client(); }));
}

void SocketBackend::accept_client() {
  if (client_ != nullptr) return;
  UniqueFd fd(::accept4(listener_->native_handle(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd) {
    const int error = errno;
    if (error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS) {
      // The client would stay in the backlog and wake us for ever: turn it away with the descriptor kept for
      // this. Without one (somebody else was quicker to take it), stop listening.
      if (!reserve_) return;
      reserve_.reset();
      const UniqueFd turned_away(::accept4(listener_->native_handle(), nullptr, nullptr, SOCK_CLOEXEC));
      const bool stuck = !turned_away && errno != EAGAIN && errno != ECONNABORTED;
      reserve_ = open_reserve();
      if (stuck) return;
    } else if (error != EAGAIN && error != EINTR && error != ECONNABORTED) {
      return;
    }
    wait_for_client();
    return;
  }
  client_ = make_descriptor(std::move(fd));
  // Tells when the client has closed both directions, also while we neither read nor write.
  client_->async_wait(Descriptor::wait_error, guarded([this, who = std::weak_ptr(client_)] {
                        if (client_ != nullptr && who.lock() == client_) drop_client();
                      }));
  open_output(client_);
  if (client_ != nullptr) open_input(client_);
}

void SocketBackend::drop_client() {
  if (client_ == nullptr) return;
  salvage_input();
  close_input();
  close_output();
  client_ = nullptr;
  later([this] { accept_client(); });
}

void SocketBackend::on_output_error(int) {
  drop_client();
}

void SocketBackend::on_input_end(int error) {
  if (error != 0) {
    drop_client();
  } else {
    close_input();  // perhaps only its output has ended; wait_error tells the rest
  }
}

}  // namespace vmmd::chardev
