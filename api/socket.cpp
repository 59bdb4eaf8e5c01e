#include "api/socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

namespace vmmd::api {

namespace {

/// Connections that wait for accept; the server's own limit starts behind it.
constexpr int kBacklog = 128;
/// Rounds of taking a lock whose file its last holder has just unlinked. More than a few never happen.
constexpr int kLockRounds = 100;

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

/// Nothing there, or a socket. A link is refused too: what it points to is not ours to replace.
Status check_replaceable(const std::string& path) {
  struct stat info = {};
  if (::lstat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return {};
    return fail_errno(ErrorCode::BadRequest, errno, "cannot look at the API socket's path {}", path);
  }
  if (S_ISSOCK(info.st_mode)) return {};
  return fail(ErrorCode::BadRequest,
              "{} exists and is not a socket: left as it is; remove it or choose another --api-socket", path);
}

bool same_file(int fd, const std::string& path) {
  struct stat by_fd = {};
  struct stat by_path = {};
  return ::fstat(fd, &by_fd) == 0 && ::lstat(path.c_str(), &by_path) == 0 && by_fd.st_dev == by_path.st_dev &&
         by_fd.st_ino == by_path.st_ino;
}

Result<UniqueFd> lock_path(const std::string& path) {
  const std::string lock_file = path + ".lock";
  for (int round = 0; round < kLockRounds; ++round) {
    UniqueFd fd(::open(lock_file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
    if (!fd && errno == ENOENT) {
      return fail(
          ErrorCode::BadRequest,
          "the directory of the API socket {} does not exist: create it, or choose another --api-socket",
          path);
    }
    if (!fd) {
      return fail_errno(
          ErrorCode::BadRequest, errno,
          "cannot create {}, the lock of the API socket: choose another --api-socket, or make its "
          "directory writable",
          lock_file);
    }
    struct flock lock = {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    if (::fcntl(fd.get(), F_OFD_SETLK, &lock) != 0) {
      const int error = errno;
      if (error == EAGAIN || error == EACCES) {
        return fail(ErrorCode::Conflict,
                    "the API socket {} belongs to a running vmmd (it holds {}); choose another --api-socket",
                    path, lock_file);
      }
      return fail_errno(ErrorCode::Internal, error, "cannot lock {}", lock_file);
    }
    if (same_file(fd.get(), lock_file)) return fd;
  }
  return fail(ErrorCode::Conflict, "the lock file {} keeps being replaced", lock_file);
}

/// Programs that do not know our lock file may listen there too.
Status check_nobody_listens(const std::string& path) {
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return fail_errno(ErrorCode::Internal, errno, "cannot make a socket");
  const sockaddr_un address = address_of(path);
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
      (errno == ECONNREFUSED || errno == ENOENT)) {
    return {};
  }
  return fail(ErrorCode::Conflict, "another process listens at {}; choose another --api-socket", path);
}

Result<int> socket_option(int fd, int option) {
  int value = 0;
  socklen_t length = sizeof value;
  if (::getsockopt(fd, SOL_SOCKET, option, &value, &length) != 0) {
    return fail_errno(ErrorCode::BadRequest, errno, "descriptor {} is not a socket", fd);
  }
  return value;
}

}  // namespace

ApiSocket& ApiSocket::operator=(ApiSocket&& other) noexcept {
  if (this == &other) return *this;
  remove();
  listener_ = std::move(other.listener_);
  lock_ = std::move(other.lock_);
  path_ = std::exchange(other.path_, {});
  file_ = std::exchange(other.file_, {});
  device_ = other.device_;
  inode_ = other.inode_;
  return *this;
}

ApiSocket::~ApiSocket() {
  remove();
}

void ApiSocket::remove() noexcept {
  if (!lock_) return;
  struct stat info = {};
  if (inode_ != 0 && ::lstat(file_.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_) {
    ::unlink(file_.c_str());
  }
  const std::string lock_file = path_ + ".lock";
  if (same_file(lock_.get(), lock_file)) ::unlink(lock_file.c_str());
  lock_.reset();
}

Result<ApiSocket> bind_api_socket(const std::string& path) {
  if (path.empty()) return fail(ErrorCode::BadRequest, "the API socket needs a path");
  constexpr std::size_t kLongest = sizeof(sockaddr_un::sun_path) - 1;
  if (path.size() > kLongest) {
    return fail(ErrorCode::BadRequest, "the API socket's path has {} bytes; the kernel takes at most {}: {}",
                path.size(), kLongest, path);
  }
  VMMD_TRY(check_replaceable(path));
  ApiSocket socket;
  socket.path_ = path;
  VMMD_ASSIGN(socket.lock_, lock_path(path));
  // From here on `socket` removes what it made, whatever fails.
  VMMD_TRY(check_replaceable(path));
  VMMD_TRY(check_nobody_listens(path));
  // Made beside its place and moved there when it listens: who sees the name can connect at once. Between
  // bind and listen a client would be refused, and those who try again without a pause keep us from the CPU.
  socket.file_ = path.size() < kLongest ? path + "~" : path;
  VMMD_TRY(check_replaceable(socket.file_));
  if (::unlink(socket.file_.c_str()) != 0 && errno != ENOENT) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot replace the stale socket {}", socket.file_);
  }
  socket.listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.listener_) return fail_errno(ErrorCode::Internal, errno, "cannot make a socket");
  const int fd = socket.listener_.get();
  // Linux gives the file the socket's own mode, less the umask: private from its first moment, without
  // touching the umask, which belongs to the whole process.
  if (::fchmod(fd, 0600) != 0)
    return fail_errno(ErrorCode::Internal, errno, "cannot set the mode of {}", path);
  const sockaddr_un address = address_of(socket.file_);
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot bind the API socket {}", path);
  }
  struct stat info = {};
  if (::lstat(socket.file_.c_str(), &info) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot look at the API socket {}", socket.file_);
  }
  socket.device_ = info.st_dev;
  socket.inode_ = info.st_ino;
  if (::listen(fd, kBacklog) != 0) return fail_errno(ErrorCode::Internal, errno, "cannot listen at {}", path);
  if (::rename(socket.file_.c_str(), path.c_str()) != 0) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot move the API socket to {}", path);
  }
  socket.file_ = path;
  return socket;
}

Result<ApiSocket> inherit_api_socket(int fd) {
  if (::fcntl(fd, F_GETFD) < 0) {
    return fail_errno(ErrorCode::BadRequest, errno, "descriptor {}, given as the API socket, is not open",
                      fd);
  }
  VMMD_ASSIGN(const int domain, socket_option(fd, SO_DOMAIN));
  VMMD_ASSIGN(const int type, socket_option(fd, SO_TYPE));
  VMMD_ASSIGN(const int listening, socket_option(fd, SO_ACCEPTCONN));
  if (domain != AF_UNIX || type != SOCK_STREAM || listening == 0) {
    return fail(ErrorCode::BadRequest, "descriptor {} is not a listening Unix stream socket", fd);
  }
  if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot set descriptor {} to close on exec", fd);
  }
  ApiSocket socket;
  socket.listener_.reset(fd);
  return socket;
}

Result<ApiSocket> open_api_socket(std::string_view spec) {
  constexpr std::string_view kFd = "fd=";
  constexpr std::string_view kPath = "path=";
  if (spec.starts_with(kFd)) {
    spec.remove_prefix(kFd.size());
    int fd = -1;
    const auto [end, error] = std::from_chars(spec.data(), spec.data() + spec.size(), fd);
    if (error != std::errc() || end != spec.data() + spec.size() || fd < 0) {
      return fail(ErrorCode::BadRequest, "--api-socket fd= takes the number of a descriptor, not \"{}\"",
                  spec);
    }
    return inherit_api_socket(fd);
  }
  if (spec.starts_with(kPath)) spec.remove_prefix(kPath.size());
  return bind_api_socket(std::string(spec));
}

}  // namespace vmmd::api
