#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace vmmd {

/// A listening Unix stream socket with a file of its own: 0600 from its first moment, removed at the end
/// unless somebody else's is there by then. Neither it nor what it accepts blocks by itself.
class UnixListener {
 public:
  /// A socket file that nobody listens on is replaced; one in use, or anything else at `path`, is a Conflict.
  static Result<std::unique_ptr<UnixListener>> open(const std::string& path, int backlog);
  ~UnixListener();
  UnixListener(const UnixListener&) = delete;
  UnixListener& operator=(const UnixListener&) = delete;

  [[nodiscard]] int fd() const { return fd_.get(); }
  /// Hands the descriptor over, and leaves the file to us.
  [[nodiscard]] UniqueFd take_fd() { return std::move(fd_); }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  UnixListener(std::string path, UniqueFd fd);

  const std::string path_;
  UniqueFd fd_;
  dev_t device_ = 0;  // the file that is ours to remove
  ino_t inode_ = 0;
};

/// Accepts on listening sockets that do not block. A client for whom there is no descriptor or memory would
/// stay in the backlog and wake a level-triggered wait for ever: he is turned away, with a descriptor kept
/// for this.
class Acceptor {
 public:
  Acceptor();
  /// The client's socket, which does not block; an empty one if nobody is there, or was turned away. An
  /// error: the client is still there, so do not wait for more.
  Result<UniqueFd> accept(int listener);

 private:
  UniqueFd reserve_;
};

/// A stream socket connected to `path`, without waiting for room in its backlog. It does not block.
Result<UniqueFd> connect_unix(const std::string& path);

}  // namespace vmmd
