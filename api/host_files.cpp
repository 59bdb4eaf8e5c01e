#include "api/host_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/file.h"

namespace vmmd::api {

namespace {

Status check_directory_of(const std::string& path) {
  std::filesystem::path directory = std::filesystem::path(path).parent_path();
  if (directory.empty()) directory = ".";
  if (::access(directory.c_str(), W_OK | X_OK) != 0) {
    if (errno == ENOENT) {
      return fail(ErrorCode::BadRequest,
                  "cannot create \"{}\": there is no directory \"{}\"; create it first", path,
                  directory.native());
    }
    return fail_errno(ErrorCode::BadRequest, errno, "cannot create \"{}\" in directory \"{}\"", path,
                      directory.native());
  }
  return {};
}

}  // namespace

Status check_readable_file(const std::string& path) {
  // Looked at before it is opened: opening is not harmless for every kind of device.
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot open \"{}\"", path);
  }
  if (!S_ISREG(info.st_mode)) return fail(ErrorCode::BadRequest, "\"{}\" is not a regular file", path);
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) return fail_errno(ErrorCode::BadRequest, errno, "cannot open \"{}\"", path);
  return {};
}

Status check_writable_file(const std::string& path, bool regular_only) {
  if (path.empty()) return fail(ErrorCode::BadRequest, "the path is empty");
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return check_directory_of(path);
    return fail_errno(ErrorCode::BadRequest, errno, "cannot use \"{}\"", path);
  }
  const bool special = S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode);
  if (!S_ISREG(info.st_mode) && (regular_only || !special)) {
    return fail(ErrorCode::BadRequest, "\"{}\" is not a {}", path,
                regular_only ? "regular file" : "file, FIFO or character device");
  }
  if (::access(path.c_str(), W_OK) != 0) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot write \"{}\"", path);
  }
  return {};
}

Status check_socket_path(const std::string& path) {
  constexpr std::size_t kMax = sizeof(sockaddr_un::sun_path) - 1;
  if (path.empty()) return fail(ErrorCode::BadRequest, "the path is empty");
  if (path.size() > kMax) {
    return fail(ErrorCode::BadRequest, "the socket's path has {} bytes, more than {}", path.size(), kMax);
  }
  struct stat info = {};
  if (::stat(path.c_str(), &info) == 0) {
    if (!S_ISSOCK(info.st_mode)) {
      return fail(ErrorCode::BadRequest, "\"{}\" is there and is not a socket", path);
    }
  } else if (errno != ENOENT) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot use \"{}\"", path);
  }
  return check_directory_of(path);
}

}  // namespace vmmd::api
