#include "base/unix_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace vmmd {

namespace {

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

bool connect_to(const UniqueFd& fd, const sockaddr_un& address) {
  return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

UniqueFd open_reserve() {
  return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
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
  if (connect_to(probe, address) || errno == EAGAIN) {
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

Result<std::unique_ptr<UnixListener>> UnixListener::open(const std::string& path, int backlog) {
  VMMD_ASSIGN(const sockaddr_un address, make_address(path));
  VMMD_TRY(remove_stale(address, path));
  VMMD_ASSIGN(UniqueFd fd, make_socket());
  // On Linux the mode of an unbound socket becomes that of its file: no moment with wider permissions, and no
  // umask() that other threads would feel.
  if (::fchmod(fd.get(), 0600) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot restrict socket {}", path);
  }
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return fail_errno(errno == EADDRINUSE ? ErrorCode::Conflict : ErrorCode::BadRequest, errno,
                      "cannot create socket {}", path);
  }
  std::unique_ptr<UnixListener> listener(new UnixListener(path, std::move(fd)));
  if (::listen(listener->fd(), backlog) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot listen on socket {}", path);
  }
  return listener;
}

UnixListener::UnixListener(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {
  struct stat info = {};
  if (::lstat(path_.c_str(), &info) == 0) {
    device_ = info.st_dev;
    inode_ = info.st_ino;
  }
}

UnixListener::~UnixListener() {
  struct stat info = {};
  if (::lstat(path_.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_) {
    ::unlink(path_.c_str());
  }
}

Acceptor::Acceptor() : reserve_(open_reserve()) {}

Result<UniqueFd> Acceptor::accept(int listener) {
  const auto nobody = [](int error) { return error == EAGAIN || error == EINTR || error == ECONNABORTED; };
  UniqueFd client(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (client || nobody(errno)) return client;
  int error = errno;
  const bool scarce = error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS;
  if (scarce && reserve_) {
    reserve_.reset();
    const UniqueFd turned_away(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    const int second = turned_away ? EAGAIN : errno;
    // Somebody else may be quicker to take it: then the next client finds us without.
    reserve_ = open_reserve();
    if (nobody(second)) return UniqueFd();
    error = second;
  }
  return fail_errno(ErrorCode::Internal, error, "cannot accept a client");
}

Result<UniqueFd> connect_unix(const std::string& path) {
  VMMD_ASSIGN(const sockaddr_un address, make_address(path));
  VMMD_ASSIGN(UniqueFd fd, make_socket());
  if (!connect_to(fd, address)) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot connect to socket {}", path);
  }
  return fd;
}

}  // namespace vmmd
