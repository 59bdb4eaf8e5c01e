#pragma once

#include <linux/kvm.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "api/config.h"
#include "api/types.h"
#include "base/result.h"
#include "daemon/memory/layout.h"
#include "daemon/snapshot/format/disks.h"
#include "daemon/snapshot/format/host_cpu.h"
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

/// What KVM can give a guest here.
class HostFacts {
 public:
  HostFacts() = default;
  virtual ~HostFacts() = default;
  HostFacts(const HostFacts&) = delete;
  HostFacts& operator=(const HostFacts&) = delete;
  [[nodiscard]] virtual Result<std::vector<kvm_cpuid_entry2>> cpuid() const = 0;
  [[nodiscard]] virtual Result<HostTsc> tsc() const = 0;
};

/// Asked of /dev/kvm when needed.
class ThisHost final : public HostFacts {
 public:
  [[nodiscard]] Result<std::vector<kvm_cpuid_entry2>> cpuid() const override;
  [[nodiscard]] Result<HostTsc> tsc() const override;
};

/// Two things are known better, and for nothing, from the machine itself: its units, and its TSC. A restore,
/// which makes one, asks for them here only when there is something else to say, for the list to be whole.
enum class MachineChecks { Always, WithOthers };

/// Opens the snapshot and adds all that keeps `request` from being carried out here to `problems`. Nothing if
/// the manifest cannot be trusted. What could not be checked, for want of KVM, goes to `notes`.
std::optional<Restorable> examine(const std::filesystem::path& source, const api::RestoreRequest& request,
                                  const HostFacts& host, MachineChecks machine_checks, Problems& problems,
                                  std::vector<std::string>& notes);

/// The files that the disks of a configuration lie in.
[[nodiscard]] std::vector<DiskFile> disk_files(const api::VmConfig& config);

}  // namespace vmmd::snapshot
