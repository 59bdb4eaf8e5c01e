#pragma once

#include <linux/kvm.h>

#include "proto/state.pb.h"

namespace vmmd::kvm {

// KVM's register structures as messages and back. Every field is named on both ways.

void to_message(const kvm_regs& regs, state::GeneralRegisters& message);
[[nodiscard]] kvm_regs from_message(const state::GeneralRegisters& message);

void to_message(const kvm_sregs& sregs, state::SpecialRegisters& message);
[[nodiscard]] kvm_sregs from_message(const state::SpecialRegisters& message);

void to_message(const kvm_debugregs& regs, state::DebugRegisters& message);
[[nodiscard]] kvm_debugregs from_message(const state::DebugRegisters& message);

void to_message(const kvm_vcpu_events& events, state::VcpuEvents& message);
[[nodiscard]] kvm_vcpu_events from_message(const state::VcpuEvents& message);

}  // namespace vmmd::kvm
