#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"

namespace vmmd::api {

/// The listening socket of the API, and the claim on its path. Destroying it removes the socket and the lock
/// file, if they are still the ones it made.
///
/// Who owns PATH is decided by a write lock (fcntl, open file description) on `PATH.lock`: it dies with its
/// process, however that ends, so a socket found while we hold the lock is stale. The holder alone binds and
/// unlinks. The lock file is unlinked at a clean exit while the lock is still held; whoever locks a file that
/// is no longer the one at that path starts over.
class ApiSocket {
 public:
  ApiSocket() = default;
  ApiSocket(ApiSocket&& other) noexcept = default;
  ApiSocket& operator=(ApiSocket&& other) noexcept;
  ~ApiSocket();

  /// The listening descriptor, for ApiServer. Once.
  [[nodiscard]] UniqueFd take_listener() { return std::move(listener_); }
  [[nodiscard]] const std::string& path() const { return path_; }  // empty for an inherited one

 private:
  friend Result<ApiSocket> bind_api_socket(const std::string& path);
  friend Result<ApiSocket> inherit_api_socket(int fd);
  void remove() noexcept;

  UniqueFd listener_;
  UniqueFd lock_;
  std::string path_;
  std::string file_;  // where the socket's file is: beside `path_` until it listens
  dev_t device_ = 0;  // of the socket's file, to know it again
  ino_t inode_ = 0;
};

/// Binds and listens at `path`: mode 0600 whatever the umask allows beyond it, at most 107 bytes. The name
/// appears when connections are taken (with 107 bytes, which leave no room for another name, a moment
/// before). Conflict when a live process listens there; a stale socket is replaced; anything else is refused
/// untouched.
Result<ApiSocket> bind_api_socket(const std::string& path);

/// Takes over a listening Unix stream socket that our parent opened. Its path stays the parent's business.
Result<ApiSocket> inherit_api_socket(int fd);

/// `--api-socket PATH|path=PATH|fd=N`.
Result<ApiSocket> open_api_socket(std::string_view spec);

}  // namespace vmmd::api
