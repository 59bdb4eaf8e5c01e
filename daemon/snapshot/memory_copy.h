#pragma once

#include <cstdint>

#include "base/result.h"
#include "daemon/memory/guest_ram.h"
#include "daemon/snapshot/crew.h"
#include "daemon/snapshot/format/memory_digests.h"
#include "daemon/snapshot/job.h"

namespace vmmd::snapshot {

/// Writes RAM into `fd`, which is empty: sized to all of RAM, pages of zeros left as holes, the digest of
/// every chunk that holds something put into `digests`. Returns the bytes written.
///
/// Costs one pass over the touched pages: a test for zero, a digest, and a write; a chunk of 2 MiB at a time,
/// on several threads. Write-back starts while later chunks are still being written, so that the fsync at the
/// end finds little to do. Untouched memory is not read.
///
/// Stops with an error soon after `job` is cancelled. Threads that then still wait for the disk go to
/// `leave`: they use `fd` until they end, which has to stay open, and at most look at RAM, which need not be
/// there. Without `leave` they are waited for.
Result<std::uint64_t> copy_memory_out(const memory::GuestRam& ram, int fd, MemoryDigests& digests, Job& job,
                                      const Crew::Leave& leave = {});

/// Fills fresh RAM from `fd` (memory.bin), holes left untouched. What a memory file held before is gone. With
/// `digests` every chunk is compared on the way; a difference is an error that names the guest address.
Status copy_memory_in(int fd, const memory::GuestRam& ram, const MemoryDigests* digests, Job& job);

}  // namespace vmmd::snapshot
