#pragma once

#include "api/types.h"
#include "base/result.h"
#include "base/side_thread.h"
#include "daemon/snapshot/job.h"
#include "daemon/vm/machine.h"

namespace vmmd::snapshot {

/// Takes a snapshot of a paused machine: saves its units, captures RAM, publishes the directory. The machine
/// stays paused and is as it was, whatever happens, but for one thing: after `link` its RAM is mapped
/// copy-on-write over the file that now is the snapshot's memory.bin, so that it may be resumed.
///
/// Costs, per mode: copy, one pass over the touched pages and their fsync; link and reflink, the fsync of
/// what the file has dirty. Nothing is written before every unit has been saved. Waits for the disk on
/// `sync`, so that a cancelled job ends at once.
///
/// memory.bin of link and reflink has no digests yet: see record_memory_digests().
Result<api::SnapshotResult> take_snapshot(vm::Machine& machine, const api::VmConfig& config,
                                          const api::SnapshotRequest& request, Job& job, SideThread& sync);

}  // namespace vmmd::snapshot
