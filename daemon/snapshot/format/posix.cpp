#include "daemon/snapshot/format/posix.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/unique_fd.h"

namespace vmmd::snapshot {
namespace {

constexpr std::string_view kDiskFull = ": the disk is full; free space and try again";
constexpr std::string_view kQuotaUsedUp = ": the disk quota is used up";

}  // namespace

Status sync_file(int fd, const std::string& name) {
  if (retry([&] { return ::fsync(fd); }) == 0 || errno == EINVAL) return {};
  const int error = errno;
  if (error == ENOSPC || error == EDQUOT) return fail_writing(error, "cannot sync " + name, "");
  return fail_errno(ErrorCode::Internal, error, "cannot sync {}", name);
}

Result<std::vector<std::string>> directory_entries(int fd, std::size_t limit, const std::string& name) {
  // A description of its own: reading moves the offset, and closedir closes.
  UniqueFd copy(retry([&] { return ::openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (!copy) return fail_errno(ErrorCode::BadRequest, errno, "cannot read the directory {}", name);
  const auto close = [](DIR* stream) { ::closedir(stream); };
  std::unique_ptr<DIR, decltype(close)> stream(::fdopendir(copy.get()), close);
  if (!stream) return fail_errno(ErrorCode::Internal, errno, "cannot read the directory {}", name);
  static_cast<void>(copy.release());
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(stream.get());
    if (entry == nullptr && errno == EINTR) continue;
    if (entry == nullptr && errno != 0) {
      return fail_errno(ErrorCode::Internal, errno, "cannot read the directory {}", name);
    }
    if (entry == nullptr) return names;
    if (std::strcmp(entry->d_name, ".") == 0 || std::strcmp(entry->d_name, "..") == 0) continue;
    if (names.size() == limit) {
      return fail(ErrorCode::TooLarge, "{} has more than {} entries", name, limit);
    }
    names.emplace_back(entry->d_name);
  }
}

Status write_out(int fd, std::span<const std::byte> data, std::uint64_t offset, const std::string& name) {
  while (!data.empty()) {
    const ssize_t count =
        retry([&] { return ::pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset)); });
    if (count < 0) return fail_writing(errno, "cannot write ", name);
    data = data.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

Space space_of(const Error& error) {
  const auto says = [&](int number, std::string_view ours) {
    char buffer[128];
    const std::string_view theirs = ::strerror_r(number, buffer, sizeof buffer);
    return std::any_of(error.messages.begin(), error.messages.end(), [&](const std::string& message) {
      return message.ends_with(ours) || message.ends_with(theirs);
    });
  };
  if (says(ENOSPC, kDiskFull)) return Space::DiskFull;
  return says(EDQUOT, kQuotaUsedUp) ? Space::QuotaUsedUp : Space::Enough;
}

tl::unexpected<Error> fail_writing(int error, const std::string& what, const std::string& where) {
  switch (error) {
    case ENOSPC:
      return fail(ErrorCode::Internal, "{}{}{}", what, where, kDiskFull);
    case EDQUOT:
      return fail(ErrorCode::Internal, "{}{}{}", what, where, kQuotaUsedUp);
    case EROFS:
      return fail(ErrorCode::BadRequest, "{}{}: the filesystem is read-only", what, where);
    case EACCES:
    case EPERM:
      return fail(ErrorCode::BadRequest, "{}{}: no permission for user {}", what, where, ::geteuid());
    case ENOENT:
    case EINVAL:
    case EOPNOTSUPP:
      return fail_errno(ErrorCode::BadRequest, error, "{}{}: this filesystem does not take it", what, where);
    default:
      return fail_errno(ErrorCode::Internal, error, "{}{}", what, where);
  }
}

}  // namespace vmmd::snapshot
