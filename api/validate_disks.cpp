#include "api/validate_disks.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <utility>

#include "api/config_enums.h"
#include "api/disk_source.h"
#include "api/host_files.h"
#include "base/file.h"

namespace vmmd::api {

namespace {

constexpr unsigned kMaxQueues = 64;
constexpr unsigned kMaxQueueSize = 1024;  // entries
constexpr unsigned kMinQueueSize = 4;     // entries; as Cloud Hypervisor, which wants more than 2
constexpr std::uint64_t kSector = 512;    // bytes

/// What the bytes at the beginning or the end of an image say it is; nothing: raw, as far as we know.
struct Format {
  std::string_view name;
  std::string_view magic;
  bool at_end;  // in the last sector
};
constexpr auto kFormats = std::to_array<Format>({{"qcow2", {"QFI\xfb", 4}, false},
                                                 {"VHDX", {"vhdxfile", 8}, false},
                                                 {"VMDK", {"KDMV", 4}, false},
                                                 {"VHD", {"conectix", 8}, true}});

std::string_view format_of(int fd, std::uint64_t size) {
  for (const Format& format : kFormats) {
    std::array<char, 8> bytes{};
    const std::uint64_t at = format.at_end ? size - kSector : 0;
    const auto count = ::pread(fd, bytes.data(), format.magic.size(), static_cast<off_t>(at));
    if (count == static_cast<ssize_t>(format.magic.size()) &&
        std::string_view(bytes.data(), format.magic.size()) == format.magic)
      return format.name;
  }
  return {};
}

Status check_image(const std::string& path, bool writable, bool look_inside) {
  // Looked at before it is opened: opening is not harmless for every kind of device.
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0)
    return fail_errno(ErrorCode::BadRequest, errno, "cannot open \"{}\"", path);
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    return fail(ErrorCode::BadRequest, "\"{}\" is neither a regular file nor a block device", path);
  }
  const UniqueFd fd(::open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK));
  if (!fd) {
    const int error = errno;
    return fail_errno(
        ErrorCode::BadRequest, error, "cannot open \"{}\" {}", path,
        writable ? "for writing (readonly = true, or an overlay, leaves it unchanged)" : "for reading");
  }
  VMMD_ASSIGN(const std::uint64_t size, file_size(fd.get(), path));
  if (size == 0)
    return fail(ErrorCode::BadRequest, "\"{}\" is empty: truncate -s SIZE makes it larger", path);
  if (size % kSector != 0) {
    return fail(ErrorCode::BadRequest,
                "\"{}\" has {} bytes, not a multiple of {}: truncate -s %{} makes it one", path, size,
                kSector, kSector);
  }
  const std::string_view format = look_inside ? format_of(fd.get(), size) : std::string_view();
  if (!format.empty()) {
    return fail(ErrorCode::BadRequest,
                "\"{}\" looks like a {} image, and only raw ones are built: convert it with qemu-img "
                "convert -O raw, or say image_type = Raw if the guest shall see it as it is",
                path, format);
  }
  return {};
}

void check_affinity(const std::string& at, const DiskConfig& disk, Findings& findings) {
  if (disk.queue_affinity.empty()) return;
  const auto host_cpus = static_cast<std::uint64_t>(std::max(1L, ::sysconf(_SC_NPROCESSORS_CONF)));
  for (std::size_t i = 0; i < disk.queue_affinity.size(); ++i) {
    const auto& [queue, cpus] = disk.queue_affinity[i];
    const std::string pointer = fmt::format("{}/queue_affinity/{}", at, i);
    if (queue >= disk.num_queues) {
      findings.add(ErrorCode::BadRequest, pointer + "/queue_index", "there is no queue {} of {}", queue,
                   disk.num_queues);
    }
    if (cpus.empty() || std::any_of(cpus.begin(), cpus.end(), [&](unsigned c) { return c >= host_cpus; })) {
      findings.add(ErrorCode::BadRequest, pointer + "/host_cpus",
                   "not a list of CPUs of this host, which has {}", host_cpus);
    }
  }
}

void check_limits(const std::string& at, const DiskConfig& disk, const std::set<std::string>& groups,
                  Findings& findings) {
  if (!disk.rate_limit_group) return;
  if (disk.rate_limiter_config) {
    findings.add(ErrorCode::BadRequest, at + "/rate_limit_group",
                 "rate_limiter_config and rate_limit_group exclude each other");
  }
  if (!groups.contains(*disk.rate_limit_group)) {
    findings.add(ErrorCode::BadRequest, at + "/rate_limit_group", "there is no \"{}\" in rate_limit_groups",
                 *disk.rate_limit_group);
  }
}

void check_layers(const std::string& at, const DiskConfig& disk, bool look_inside, Findings& findings) {
  const DiskSource source = disk_source(disk);
  if (!disk.path) {
    findings.add(ErrorCode::BadRequest, at + "/path", "missing: a disk needs an image or a block device");
  } else if (const Status usable = check_image(source.path, source.writes_image(disk.readonly),
                                               look_inside && disk.image_type != ImageType::Raw);
             !usable) {
    findings.add(usable.error().code, at + "/path", "{}", usable.error().to_string());
  }
  if (source.memory_overlay && source.overlay_file) {
    findings.add(ErrorCode::BadRequest, at + "/overlay", "memdiff: in the path is an overlay already");
  } else if (source.overlay_file) {
    if (const Status writable = check_writable_file(*source.overlay_file, /*regular_only=*/true); !writable)
      findings.add(writable.error().code, at + "/overlay", "{}", writable.error().to_string());
  }
  if (disk.readonly && (source.memory_overlay || source.overlay_file)) {
    findings.add(ErrorCode::BadRequest, at + "/readonly", "a disk with an overlay is one that is written");
  }
  if (disk.overlay_limit && !source.memory_overlay) {
    findings.add(ErrorCode::BadRequest, at + "/overlay_limit", "needs overlay = memory");
  }
}

void check_disk(const std::string& at, const DiskConfig& disk, bool boots, Findings& findings) {
  if (disk.vhost_user || disk.vhost_socket) {
    findings.add(ErrorCode::NotSupported, at + "/vhost_user", "vhost-user is not built yet");
  }
  if (disk.image_type != ImageType::Raw && disk.image_type != ImageType::Unknown) {
    findings.add(ErrorCode::NotSupported, at + "/image_type", "{} is not built yet: convert it to Raw",
                 enum_name(disk.image_type));
  }
  if (disk.num_queues > kMaxQueues) {
    findings.add(ErrorCode::BadRequest, at + "/num_queues", "{} queues are more than {}", disk.num_queues,
                 kMaxQueues);
  }
  if (!std::has_single_bit(disk.queue_size) || disk.queue_size > kMaxQueueSize) {
    findings.add(ErrorCode::BadRequest, at + "/queue_size", "{} is not a power of two up to {}",
                 disk.queue_size, kMaxQueueSize);
  } else if (boots && disk.queue_size < kMinQueueSize) {
    findings.add(
        ErrorCode::BadRequest, at + "/queue_size",
        "{} is less than {}: a request is at least a header, a buffer and its answer, which Linux puts "
        "into one chain",
        disk.queue_size, kMinQueueSize);
  }
}

std::set<std::string> check_groups(const VmConfig& config, Findings& findings) {
  std::set<std::string> ids;
  for (std::size_t i = 0; i < config.rate_limit_groups.size(); ++i) {
    const std::string pointer = fmt::format("/rate_limit_groups/{}/id", i);
    const std::string& id = config.rate_limit_groups[i].id;
    if (id.empty()) findings.add(ErrorCode::BadRequest, pointer, "the id is empty");
    if (!ids.insert(id).second)
      findings.add(ErrorCode::Conflict, pointer, "\"{}\" is the id of another group", id);
  }
  return ids;
}

}  // namespace

void check_disks(const VmConfig& config, bool boots, Findings& findings) {
  const std::set<std::string> groups = check_groups(config, findings);
  for (std::size_t i = 0; i < config.disks.size(); ++i) {
    const std::string at = fmt::format("/disks/{}", i);
    const DiskConfig& disk = config.disks[i];
    check_disk(at, disk, boots, findings);
    if (!disk.vhost_user && !disk.vhost_socket) check_layers(at, disk, /*look_inside=*/boots, findings);
    check_limits(at, disk, groups, findings);
    check_affinity(at, disk, findings);
  }
}

}  // namespace vmmd::api
