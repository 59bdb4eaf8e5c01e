#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "api/client.h"
#include "api/types.h"
#include "base/result.h"

// What vm.info says, as far as commands look at it.
namespace vmmd::remote {

/// Where a character device of the VM can be reached from here.
struct ConsolePlace {
  std::string mode;  // "Pty", as in the configuration
  std::string path;  // of the pty, file or socket; empty where the mode has none
};

struct VmSummary {
  std::string state;         // "Running"
  std::uint64_t memory = 0;  // bytes
  std::uint64_t vcpus = 0;
  ConsolePlace serial;
  ConsolePlace console;  // virtio
  std::vector<api::JobStatus> jobs;
};

/// Reads an answer of vm.info. Lenient: what is missing or of another type stays empty.
[[nodiscard]] VmSummary parse_vm_info(const std::string& body);

/// Nothing where there is no VM.
Result<std::optional<VmSummary>> vm_summary(const api::Client& client);

/// "Running", …; "None" where there is no VM.
Result<std::string> vm_state(const api::Client& client);

}  // namespace vmmd::remote
