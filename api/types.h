#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/config.h"

namespace vmmd::api {

/// VmState as the API shows it. A VM that does not exist has none (404).
enum class VmState : std::uint8_t { Created, Running, Paused, Shutdown };
[[nodiscard]] std::string_view to_string(VmState state);

/// One long-running piece of work, as vm.info and progress events show it.
struct JobStatus {
  std::string id;     // "snapshot-1"
  std::string kind;   // "boot", "snapshot", "restore", "verify"
  std::string phase;  // "pause", "memory", "sync", "publish"
  std::uint64_t bytes_done = 0;
  std::uint64_t bytes_total = 0;
  double seconds = 0;
};

/// A range of guest memory.
struct GuestRange {
  std::uint64_t guest_address = 0;
  std::uint64_t length = 0;  // bytes
};

/// How the memory of a VM restored with verify=lazy was found, which is checked while the VM runs.
struct MemoryCheck {
  enum class State : std::uint8_t {
    Running,
    Intact,
    Damaged,  // the VM has been paused
    Failed,   // not all could be checked
  };
  State state = State::Running;
  std::uint64_t damaged_bytes = 0;
  std::vector<GuestRange> damaged;  // the first of them
};

/// GET vm.info. Published by the VM thread as an immutable object; reading it never waits.
struct VmInfo {
  VmConfig config;  // with every default filled in
  VmState state = VmState::Created;
  std::uint64_t memory_actual_size = 0;  // bytes
  std::vector<JobStatus> jobs;
  /// Ids of disks with on_enospc = Pause: the VM is paused because the host has no room for their writes.
  std::vector<std::string> full_disks;
  std::optional<MemoryCheck> memory_check;  // of a restore with verify=lazy
};

/// GET vm.counters: device -> counter -> value.
using Counters = std::map<std::string, std::map<std::string, std::int64_t>>;

/// PUT vm.snapshot. Cloud Hypervisor's body is {destination_url}; the rest is ours.
struct SnapshotRequest {
  enum class Mode : std::uint8_t { Auto, Copy, Link, Reflink };
  std::string destination_url;  // file:///dir
  Mode mode = Mode::Auto;
  bool pause = false;   // pause a running VM first
  bool resume = false;  // resume it afterwards
  bool cancel_on_disconnect = false;
  std::map<std::string, std::string> labels;
  /// A field of ours was given: the answer is 200 with a SnapshotResult instead of Cloud Hypervisor's 204.
  bool extended = false;
};

/// Answer of vm.snapshot: what was done. 204 without a body where only Cloud Hypervisor's field was given.
struct SnapshotResult {
  std::string snapshot_id;  // UUID
  std::string mode;         // "copy", "link", "reflink"
  std::uint64_t memory_bytes_written = 0;
  bool memory_digests = false;  // recorded; false: the job goes on and records them
};

/// Open taps for a network, one for each queue pair.
struct NetFds {
  std::string id;
  std::vector<std::int32_t> fds;  // how their owner calls them; -1: by no number

  bool operator==(const NetFds&) const = default;
};

/// PUT vm.restore. Cloud Hypervisor's fields plus ours.
struct RestoreRequest {
  enum class MemoryMode : std::uint8_t { Cow, Copy, Shared };
  enum class Verify : std::uint8_t { None, Lazy, Full };
  enum class CpuCheck : std::uint8_t { Strict, Ignore };
  enum class Identity : std::uint8_t { New, Keep };
  enum class ClockMode : std::uint8_t { Realtime, Continue };
  std::string source_url;  // file:///dir
  MemoryMode memory_mode = MemoryMode::Cow;
  bool prefault = false;
  bool resume = false;
  Verify verify = Verify::None;
  CpuCheck cpu_check = CpuCheck::Strict;
  Identity identity = Identity::New;
  ClockMode clock = ClockMode::Realtime;
  /// JSON merge patch over config.json, as text; empty = none. Lists merge by "id".
  std::string overrides;
  /// In the place of what config.json says of these networks' taps. The descriptors themselves go beside the
  /// request: see fd_places().
  std::vector<NetFds> net_fds;
  /// When given, must match the manifest.
  std::optional<std::uint64_t> memory_size;  // bytes
  std::optional<unsigned> vcpus;
};

/// Commands without a body.
enum class Command : std::uint8_t {
  Boot,
  Pause,
  Resume,
  Shutdown,
  Reboot,
  Delete,
  PowerButton,
  Nmi,
  VmmShutdown
};
[[nodiscard]] std::string_view to_string(Command command);  // "vm.boot"

}  // namespace vmmd::api
