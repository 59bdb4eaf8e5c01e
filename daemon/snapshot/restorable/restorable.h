#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "api/config.h"
#include "api/types.h"
#include "daemon/memory/layout.h"
#include "daemon/snapshot/cpu/host_facts.h"
#include "daemon/snapshot/format/disks.h"
#include "daemon/snapshot/format/open.h"
#include "daemon/snapshot/format/problems.h"

// Everything that a restore asks before there is a machine: the same for vm.restore and `snapshot check`.
namespace vmmd::snapshot {

/// A snapshot and the machine that a request makes of it.
struct Restorable {
  OpenSnapshot snapshot;
  api::VmConfig config;  // config.json with the overrides applied
  std::vector<memory::RamRange> layout;
};

/// Some things are known better, and for nothing, from making the machine itself: its units, its TSC, and
/// what others have locked. A restore, which makes one, asks for them here only when there is something else
/// to say, for the list to be whole.
enum class MachineChecks { Always, WithOthers };

/// Opens the snapshot and adds all that keeps `request` from being carried out here to `problems`. Nothing if
/// the manifest cannot be trusted. What could not be checked, for want of KVM, goes to `notes`, and with
/// MachineChecks::Always (who only asks has not said how memory will be restored) what depends on that.
/// Takes no locks.
std::optional<Restorable> examine(const std::filesystem::path& source, const api::RestoreRequest& request,
                                  const HostFacts& host, MachineChecks machine_checks, Problems& problems,
                                  std::vector<std::string>& notes);

/// The files that the disks of a configuration lie in.
[[nodiscard]] std::vector<DiskFile> disk_files(const api::VmConfig& config);

}  // namespace vmmd::snapshot
