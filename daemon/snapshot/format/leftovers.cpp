#include "daemon/snapshot/format/leftovers.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "base/file.h"
#include "base/uuid.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/posix.h"

namespace vmmd::snapshot {
namespace {

constexpr std::string_view kMark = ".vmmd-";
constexpr std::string_view kPartial = ".partial";
constexpr std::string_view kDeleted = ".deleted";
constexpr std::size_t kRandomDigits = 16;
constexpr std::size_t kParentLimit = 1'000'000;  // entries of a directory of snapshots
constexpr std::size_t kInsideLimit = 10'000;     // entries of a snapshot

bool all_in(std::string_view text, std::string_view alphabet) {
  return !text.empty() && text.find_first_not_of(alphabet) == std::string_view::npos;
}

/// Removes one hidden directory if its owner is gone. False if it is alive, or the name is something else.
Result<bool> collect_one(int parent, const std::string& entry, const std::filesystem::path& shown_path) {
  UniqueFd directory(retry(
      [&] { return ::openat(parent, entry.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); }));
  if (!directory) {
    // Gone, or a file that only looks like ours: neither is our business.
    if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP) return false;
    return fail_errno(ErrorCode::Internal, errno, "cannot open {}", shown_path.native());
  }
  VMMD_ASSIGN(const bool locked, lock_directory(directory.get(), false));
  // Between open and lock its owner may have published it: the descriptor is then a snapshot.
  if (!locked || !is_same_file(parent, entry, directory.get())) return false;
  VMMD_TRY(remove_flat_directory(parent, entry, directory.get(), shown_path));
  return true;
}

}  // namespace

Result<std::string> hidden_name(std::string_view name, HiddenKind kind) {
  VMMD_ASSIGN(const Uuid random, Uuid::random());
  std::string digits = random.to_string();
  std::erase(digits, '-');
  std::string hidden = fmt::format(".{}{}{}-{}{}", name, kMark, ::getpid(), digits.substr(0, kRandomDigits),
                                   kind == HiddenKind::Partial ? kPartial : kDeleted);
  if (hidden.size() > kNameLimit) {
    return fail(ErrorCode::TooLarge, "the name \"{}\" is too long: {} bytes more than a snapshot's may have",
                name, hidden.size() - kNameLimit);
  }
  return hidden;
}

std::string_view hidden_for(std::string_view entry) {
  const std::size_t mark = entry.rfind(kMark);
  if (entry.empty() || entry.front() != '.' || mark == std::string_view::npos || mark < 2) return {};
  std::string_view tail = entry.substr(mark + kMark.size());
  if (!tail.ends_with(kPartial) && !tail.ends_with(kDeleted)) return {};
  static_assert(kPartial.size() == kDeleted.size());
  tail.remove_suffix(kPartial.size());
  const std::size_t dash = tail.find('-');
  // At most ten digits; no dash at all (npos) is more than that.
  if (dash > 10 || !all_in(tail.substr(0, dash), "0123456789")) return {};
  tail.remove_prefix(dash + 1);
  if (tail.size() != kRandomDigits || !all_in(tail, "0123456789abcdef")) return {};
  return entry.substr(1, mark - 1);
}

Result<bool> lock_directory(int directory, bool optional) {
  if (retry([&] { return ::flock(directory, LOCK_EX | LOCK_NB); }) == 0) return true;
  if (errno == EWOULDBLOCK) return false;
  if (errno == ENOLCK || errno == EOPNOTSUPP || errno == EBADF || errno == EINVAL || errno == ENOSYS) {
    return optional;
  }
  return fail_errno(ErrorCode::Internal, errno, "cannot lock a snapshot's hidden directory");
}

bool is_same_file(int parent, const std::string& name, int fd) {
  struct stat named = {};
  struct stat open = {};
  return ::fstatat(parent, name.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0 && ::fstat(fd, &open) == 0 &&
         named.st_dev == open.st_dev && named.st_ino == open.st_ino;
}

Status remove_flat_directory(int parent, const std::string& name, int fd,
                             const std::filesystem::path& shown_path) {
  VMMD_ASSIGN(const std::vector<std::string> entries,
              directory_entries(fd, kInsideLimit, shown_path.native()));
  for (const std::string& entry : entries) {
    if (retry([&] { return ::unlinkat(fd, entry.c_str(), 0); }) != 0 && errno != ENOENT) {
      return fail_errno(ErrorCode::Internal, errno, "cannot remove {}/{}", shown_path.native(), entry);
    }
  }
  if (retry([&] { return ::unlinkat(parent, name.c_str(), AT_REMOVEDIR); }) != 0 && errno != ENOENT) {
    return fail_errno(ErrorCode::Internal, errno, "cannot remove {}", shown_path.native());
  }
  return {};
}

Result<std::vector<std::filesystem::path>> collect_leftovers(const std::filesystem::path& parent,
                                                             std::string_view name) {
  VMMD_ASSIGN(const UniqueFd directory, open_file(parent, O_RDONLY | O_DIRECTORY));
  VMMD_ASSIGN(std::vector<std::string> entries,
              directory_entries(directory.get(), kParentLimit, parent.native()));
  std::sort(entries.begin(), entries.end());
  std::vector<std::filesystem::path> removed;
  for (const std::string& entry : entries) {
    const std::string_view owner = hidden_for(entry);
    if (owner.empty() || (!name.empty() && owner != name)) continue;
    const std::filesystem::path path = parent / entry;
    VMMD_ASSIGN(const bool gone, collect_one(directory.get(), entry, path));
    if (gone) removed.push_back(path);
  }
  return removed;
}

}  // namespace vmmd::snapshot
