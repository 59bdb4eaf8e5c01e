#pragma once

#include "proto/snapshot.pb.h"
#include "proto/state.pb.h"

namespace vmmd::snapshot {

/// What the guest was told about its CPU, from the saved state of vCPU 0: goes into the manifest.
[[nodiscard]] CpuIdentity cpu_identity(const state::Vcpu& vcpu);

}  // namespace vmmd::snapshot
