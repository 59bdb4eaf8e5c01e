#include "api/validate_devices.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>

#include "api/device_visitor.h"
#include "api/disk_source.h"
#include "api/host_files.h"

namespace vmmd::api {

namespace {

constexpr std::size_t kMaxId = 64;  // bytes

bool is_id_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
         c == '.' || c == ':';
}

template <class Console>
void check_console(std::string_view pointer, const Console& console, Findings& findings) {
  const auto check = [&](std::string_view field, const std::optional<std::string>& path, bool wanted,
                         auto check_path) {
    const std::string where = fmt::format("{}/{}", pointer, field);
    if (wanted && !path) {
      findings.add(ErrorCode::BadRequest, where, "missing: the mode needs it");
    } else if (wanted) {
      if (const Status status = check_path(*path); !status) {
        findings.add(ErrorCode::BadRequest, where, "{}", status.error().to_string());
      }
    } else if (path && console.mode != ConsoleMode::Pty) {
      // vm.info says there which pty it is, as Cloud Hypervisor does; such a configuration may come back.
      findings.add(ErrorCode::BadRequest, where, "the mode has no use for it");
    }
  };
  check("file", console.file, console.mode == ConsoleMode::File,
        [](const std::string& path) { return check_writable_file(path, /*regular_only=*/false); });
  if constexpr (requires { console.socket; }) {
    check("socket", console.socket, console.mode == ConsoleMode::Socket, check_socket_path);
  } else if (console.mode == ConsoleMode::Socket) {
    findings.add(ErrorCode::BadRequest, fmt::format("{}/mode", pointer), "this console has no socket");
  }
}

bool is_character_device(const std::string& path) {
  struct stat info = {};
  return ::stat(path.c_str(), &info) == 0 && S_ISCHR(info.st_mode);
}

/// Remembers who uses which path.
class PathUses {
 public:
  explicit PathUses(Findings& findings) : findings_(findings) {}

  void add(const std::string& pointer, const std::optional<std::string>& path, bool written) {
    if (!path || path->empty() || is_character_device(*path)) return;
    std::error_code ignored;
    const std::string normal = std::filesystem::absolute(*path, ignored).lexically_normal().string();
    const auto [it, first] = uses_.try_emplace(normal, Use{pointer, written});
    if (first) return;
    if (written || it->second.written) {
      findings_.add(ErrorCode::Conflict, pointer, "\"{}\" is used by {} too", *path, it->second.pointer);
    }
    it->second.written = it->second.written || written;
  }

 private:
  struct Use {
    std::string pointer;
    bool written = false;
  };
  Findings& findings_;
  std::map<std::string, Use> uses_;
};

}  // namespace

void check_consoles(const VmConfig& config, Findings& findings) {
  check_console("/serial", config.serial, findings);
  check_console("/console", config.console, findings);
  check_console("/debug_console", config.debug_console, findings);
  // Who comes later in the configuration has to give way.
  std::string_view owner;
  for (const auto& [pointer, mode] :
       {std::pair("/serial/mode", config.serial.mode), std::pair("/console/mode", config.console.mode),
        std::pair("/debug_console/mode", config.debug_console.mode)}) {
    if (mode != ConsoleMode::Tty) continue;
    if (owner.empty()) {
      owner = pointer;
    } else {
      findings.add(ErrorCode::Conflict, pointer, "the terminal is used by {} already", owner);
    }
  }
}

void check_device_ids(const VmConfig& config, Findings& findings) {
  std::map<std::string, std::string> seen;  // id to pointer
  DeviceVisitor visitor([&](const std::string& device, const PciDeviceConfig& pci) {
    if (!pci.id) return;
    const std::string pointer = device + "/id";
    const std::string& id = *pci.id;
    if (id.empty() || id.size() > kMaxId || !std::all_of(id.begin(), id.end(), is_id_character)) {
      findings.add(ErrorCode::BadRequest, pointer,
                   "an id has 1 to {} letters, digits and any of _ - . :", kMaxId);
    } else if (id.starts_with("__")) {
      findings.add(ErrorCode::BadRequest, pointer, "\"{}\": ids with a leading \"__\" are reserved", id);
    } else if (const auto [it, first] = seen.emplace(id, pointer); !first) {
      findings.add(ErrorCode::Conflict, pointer, "\"{}\" is the id of {} already", id, it->second);
    }
  });
  fields(visitor, config);
}

void check_vsock(const VmConfig& config, Findings& findings) {
  if (!config.vsock) return;
  if (const Status usable = check_socket_path(config.vsock->socket); !usable) {
    findings.add(ErrorCode::BadRequest, "/vsock/socket", "{}", usable.error().to_string());
  }
}

void check_shared_paths(const VmConfig& config, Findings& findings) {
  PathUses uses(findings);
  uses.add("/payload/kernel", config.payload.kernel, /*written=*/false);
  uses.add("/payload/initramfs", config.payload.initramfs, /*written=*/false);
  uses.add("/memory/file", config.memory.file, /*written=*/true);
  uses.add("/serial/file", config.serial.file, /*written=*/true);
  uses.add("/serial/socket", config.serial.socket, /*written=*/true);
  uses.add("/console/file", config.console.file, /*written=*/true);
  uses.add("/console/socket", config.console.socket, /*written=*/true);
  uses.add("/debug_console/file", config.debug_console.file, /*written=*/true);
  for (std::size_t i = 0; i < config.disks.size(); ++i) {
    const DiskConfig& disk = config.disks[i];
    const DiskSource source = disk_source(disk);
    uses.add(fmt::format("/disks/{}/path", i), source.path, source.writes_image(disk.readonly));
    uses.add(fmt::format("/disks/{}/overlay", i), source.overlay_file, /*written=*/true);
  }
  for (std::size_t i = 0; i < config.pmem.size(); ++i) {
    uses.add(fmt::format("/pmem/{}/file", i), config.pmem[i].file, !config.pmem[i].discard_writes);
  }
  if (config.vsock) uses.add("/vsock/socket", config.vsock->socket, /*written=*/true);
}

}  // namespace vmmd::api
