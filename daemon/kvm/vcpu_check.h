#pragma once

#include <cstddef>

#include "base/result.h"
#include "proto/state.pb.h"

namespace vmmd::kvm {

/// Checks a saved vCPU, which is hostile input, without KVM: its shape, that no value is larger than the
/// register it is for, and what no x86 CPU can be in. What depends on the host's CPU (features, reserved
/// bits) KVM checks itself, and refuses. `xsave_size`: bytes of this KVM's XSAVE area.
Status check_vcpu(const state::Vcpu& state, std::size_t xsave_size);

}  // namespace vmmd::kvm
