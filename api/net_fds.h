#pragma once

#include <map>
#include <string>
#include <vector>

#include "api/passed_fds.h"
#include "api/types.h"
#include "base/result.h"

// Taps that networks get as open descriptors: which network gets how many, and which of those that were
// passed. A number in a configuration or request is never a descriptor of this process by itself; it says
// that there is a place for one, and how to name it to the user.
namespace vmmd::api {

/// The places that a configuration or a request has, in the order in which descriptors are passed for them:
/// for vm.create, that of the networks; for vm.restore, `net_fds` and then the `fds` of overrides.
[[nodiscard]] std::vector<NetFds> fd_places(const VmConfig& config);
[[nodiscard]] std::vector<NetFds> fd_places(const RestoreRequest& request);

/// The descriptors of each network, by its id.
using FdsById = std::map<std::string, PassedFds, std::less<>>;

/// As many as there are places, or BadRequest.
Result<FdsById> share_out(const std::vector<NetFds>& places, PassedFds fds);

/// Duplicates of this process's own descriptors, which whoever started it let it inherit, by their numbers.
Result<PassedFds> inherited_fds(const std::vector<NetFds>& places);

/// Lets the networks that a restore passes taps for be what those make of them: their tap by name, their
/// passt and what goes with these fall away.
Status replace_taps(VmConfig& config, const std::vector<NetFds>& places);

/// Ids of networks whose taps were descriptors of the VM that was saved, and which get no new ones.
[[nodiscard]] std::vector<std::string> networks_without_taps(const VmConfig& config,
                                                             const std::vector<NetFds>& places);

/// What is open now is known by no number: those of a configuration become -1.
void forget_fd_numbers(VmConfig& config);

}  // namespace vmmd::api
