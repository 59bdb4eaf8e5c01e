#include "daemon/snapshot/format/lock_holders.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string_view>

#include <fmt/format.h>

#include "base/file.h"
#include "daemon/snapshot/format/posix.h"

namespace vmmd::snapshot {
namespace {

constexpr std::size_t kProcLimit = std::size_t{4} << 20;  // bytes of a file in /proc
constexpr std::size_t kMostPids = 8;                      // in a message

/// All of a file that does not know its length; nothing if it cannot be read.
std::string proc_text(const char* path) {
  std::string text;
  const auto file = open_file(path, O_RDONLY);
  if (!file) return text;
  char buffer[16'384];
  while (text.size() < kProcLimit) {
    const ssize_t count = retry([&] { return ::read(file->get(), buffer, sizeof buffer); });
    if (count <= 0) break;
    text.append(buffer, static_cast<std::size_t>(count));
  }
  return text;
}

/// Takes what stands before `separator`, and it, off the front of `text`.
std::string_view take(std::string_view& text, char separator) {
  const std::size_t end = text.find(separator);
  const std::string_view part = text.substr(0, end);
  text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  return part;
}

/// The next word of a line.
std::string_view word(std::string_view& line) {
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  return take(line, ' ');
}

template <class Number>
std::optional<Number> number(std::string_view text) {
  Number value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

struct Device {
  unsigned major = 0;
  unsigned minor = 0;
};

/// The filesystem's own number, which locks are listed with. What stat says is another one where subvolumes
/// have numbers of their own (btrfs); the table of mounts has the right one.
Device filesystem_of(const struct statx& info) {
  const std::string mounts = proc_text("/proc/self/mountinfo");
  std::string_view rest = mounts;
  while (!rest.empty()) {
    std::string_view line = take(rest, '\n');
    if (number<std::uint64_t>(word(line)) != info.stx_mnt_id) continue;
    word(line);  // the parent mount
    std::string_view device = word(line);
    const auto major = number<unsigned>(take(device, ':'));
    const auto minor = number<unsigned>(device);
    if (major && minor) return {*major, *minor};
  }
  return {info.stx_dev_major, info.stx_dev_minor};
}

}  // namespace

// "1: FLOCK  ADVISORY  WRITE 18331 00:1b:77584 0 EOF"; who waits has a "->" before FLOCK.
std::vector<LockHolder> flock_holders(int fd) {
  struct statx info = {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_MNT_ID, &info) != 0) return {};
  const Device device = filesystem_of(info);
  const std::string file = fmt::format("{:02x}:{:02x}:{}", device.major, device.minor, info.stx_ino);
  const std::string locks = proc_text("/proc/locks");
  std::vector<LockHolder> holders;
  std::string_view rest = locks;
  while (!rest.empty()) {
    std::string_view line = take(rest, '\n');
    word(line);
    if (word(line) != "FLOCK") continue;
    word(line);
    const bool exclusive = word(line) == "WRITE";
    const auto pid = number<pid_t>(word(line));
    if (pid && word(line) == file) holders.push_back({*pid, exclusive});
  }
  return holders;
}

std::string pids_text(const std::vector<LockHolder>& holders) {
  std::set<pid_t> pids;
  for (const LockHolder& holder : holders) pids.insert(holder.pid);
  if (pids.empty()) return {};
  std::string text;
  std::size_t shown = 0;
  for (const pid_t pid : pids) {
    if (shown++ == kMostPids) return fmt::format(" (pid {} and {} more)", text, pids.size() - kMostPids);
    text += fmt::format("{}{}", text.empty() ? "" : ", ", pid);
  }
  return fmt::format(" (pid {})", text);
}

}  // namespace vmmd::snapshot
