#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "proto/snapshot.pb.h"

namespace vmmd::snapshot {

/// Names of the CPU features that the guest was told of and that KVM on this host could not give it: what a
/// restore here would refuse. An error where KVM cannot be asked.
Result<std::vector<std::string>> features_host_lacks(const CpuIdentity& guest);

}  // namespace vmmd::snapshot
