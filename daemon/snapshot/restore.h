#pragma once

#include <optional>
#include <string>
#include <vector>

#include "api/config.h"
#include "api/types.h"
#include "base/result.h"
#include "daemon/kvm/kvm.h"
#include "daemon/memory/guest_ram.h"
#include "daemon/snapshot/format/open.h"
#include "daemon/snapshot/job.h"
#include "daemon/snapshot/restorable/restorable.h"
#include "daemon/vm/machine.h"

namespace vmmd::snapshot {

/// A restore that may be carried out: everything that can be known without a virtual machine has been
/// checked.
struct RestorePlan {
  OpenSnapshot snapshot;
  api::VmConfig config;  // config.json with the overrides applied
  std::vector<memory::RamRange> layout;
  api::RestoreRequest request;
};

/// Opens and checks the snapshot, applies the overrides, compares with the host. One error lists everything
/// that is wrong. Costs well under a millisecond, whatever the memory's size. Touches no KVM but for what
/// `kvm` knew before.
Result<RestorePlan> plan_restore(const api::RestoreRequest& request, const kvm::Kvm& kvm);

/// Makes all of RAM be there, as part of `job`: with its progress, until it is cancelled.
Status prefault(const memory::GuestRam& ram, Job& job);

/// RAM for the plan: mapped copy-on-write (no copy, no time), read into fresh memory, or memory.bin itself;
/// all there already, if the request or the configuration asks for prefault.
Result<memory::GuestRam> restore_ram(RestorePlan& plan, Job& job);

/// Puts the units' state into a machine that was created from plan.config: paused, ready to resume. Names of
/// units that the snapshot lacks are appended to `fresh`. With `shared` the snapshot is marked as consumed
/// first.
Status restore_machine(RestorePlan& plan, vm::Machine& machine, std::vector<std::string>& fresh);

}  // namespace vmmd::snapshot
