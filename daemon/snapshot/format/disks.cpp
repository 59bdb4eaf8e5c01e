#include "daemon/snapshot/format/disks.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdint>
#include <map>
#include <string_view>
#include <utility>

#include "base/printable.h"
#include "daemon/snapshot/format/layout.h"
#include "daemon/snapshot/format/posix.h"

namespace vmmd::snapshot {
namespace {

constexpr std::int64_t kNsPerSecond = 1'000'000'000;

std::string time_text(std::int64_t ns) {
  const std::time_t seconds = ns / kNsPerSecond;
  std::tm parts = {};
  if (::gmtime_r(&seconds, &parts) == nullptr) return "an impossible time";
  char text[32];
  const std::size_t length = std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts);
  return fmt::format("{}.{:09} UTC", std::string_view(text, length), ns % kNsPerSecond);
}

void check_disk(const Disk& saved, const DiskFile& file, bool given, Problems& problems) {
  const std::string name = fmt::format("disk {}: {}", shown(file.id), printable(file.path));
  auto found = identify_disk(file);
  if (!found) return problems.add(found.error());
  const Disk& now = found->disk;
  if (now.size_bytes() != saved.size_bytes()) {
    return problems.add("{} has {} bytes, the guest knows {}", name, now.size_bytes(), saved.size_bytes());
  }
  if (given || saved.mtime_ns() == 0 || now.mtime_ns() == saved.mtime_ns()) return;
  problems.add(
      "{} was changed after the snapshot, which does not hold disks (it was of {}, it is of {}): the guest "
      "would damage what it does not know; give a copy of that time by an override of its path, or name this "
      "path there to use it all the same",
      name, time_text(saved.mtime_ns()), time_text(now.mtime_ns()));
}

// A layer that an edit of config.json gave to a disk: made when the VM is restored, or by the user for that.
bool is_new_layer(const DiskFile& file) {
  struct stat info = {};
  if (file.role != "layer") return false;
  if (::stat(file.path.c_str(), &info) != 0) return errno == ENOENT;
  return S_ISREG(info.st_mode) && info.st_size == 0;
}

}  // namespace

Result<IdentifiedDisk> identify_disk(const DiskFile& disk) {
  const std::string path = printable(disk.path);  // for messages
  // Not blocking: a FIFO in its place shall not keep us.
  UniqueFd file(
      retry([&] { return ::open(disk.path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC); }));
  if (!file) {
    const int error = errno;
    if (error == ENOENT) {
      return fail(ErrorCode::BadRequest, "disk {}: {} is missing", shown(disk.id), path);
    }
    return fail_errno(ErrorCode::BadRequest, error, "disk {}: cannot open {}", shown(disk.id), path);
  }
  struct stat info = {};
  if (::fstat(file.get(), &info) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "disk {}: cannot stat {}", shown(disk.id), path);
  }
  IdentifiedDisk found;
  found.disk.set_id(disk.id);
  found.disk.set_path(disk.path);
  found.disk.set_role(disk.role);
  found.disk.set_readonly(disk.readonly);
  if (S_ISBLK(info.st_mode)) {
    std::uint64_t size = 0;
    if (::ioctl(file.get(), BLKGETSIZE64, &size) != 0) {
      return fail_errno(ErrorCode::Internal, errno, "disk {}: {} does not tell its size", shown(disk.id),
                        path);
    }
    found.disk.set_size_bytes(size);
  } else if (S_ISREG(info.st_mode)) {
    found.disk.set_size_bytes(static_cast<std::uint64_t>(info.st_size));
    found.disk.set_mtime_ns(info.st_mtim.tv_sec * kNsPerSecond + info.st_mtim.tv_nsec);
  } else {
    return fail(ErrorCode::BadRequest, "disk {}: {} is neither a regular file nor a block device",
                shown(disk.id), path);
  }
  found.file = std::move(file);
  return found;
}

void check_disks(const SnapshotManifest& manifest, std::span<const DiskFile> disks,
                 const std::set<std::string>& given, Problems& problems) {
  std::map<std::string_view, const Disk*> listed;
  for (const Disk& saved : manifest.disks()) listed.emplace(saved.id(), &saved);
  for (const DiskFile& file : disks) {
    const auto saved = listed.find(file.id);
    if (saved != listed.end()) {
      check_disk(*saved->second, file, given.contains(file.id), problems);
    } else if (!given.contains(file.id) && !is_new_layer(file)) {
      problems.add(
          "disk {}: {} does not say of what size and time {} was, so nobody can tell whether it was changed; "
          "name its path by an override to use it all the same",
          shown(file.id), kManifestName, printable(file.path));
    }
  }
}

}  // namespace vmmd::snapshot
