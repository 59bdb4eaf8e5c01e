#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "daemon/snapshot/format/disks.h"
#include "daemon/snapshot/format/open.h"
#include "daemon/snapshot/format/verify.h"

// The three changes that a published snapshot may undergo. Each replaces manifest.bin atomically.
namespace vmmd::snapshot {

/// Is the edit acceptable? Gets config.json as it was sealed last and as it is now.
using ConfigCheck = std::function<Status(const std::string& sealed, const std::string& edited)>;

/// The disks that a config.json names.
using DisksOf = std::function<Result<std::vector<DiskFile>>(const std::string& config)>;

/// Accepts a deliberate edit of config.json: records its new digest if `check` agrees. True if anything
/// changed. The snapshot must be sound otherwise. A disk whose path the edit changes must be of the size that
/// the guest knows; that file as it is now is what a restore will ask for.
Result<bool> seal(const std::filesystem::path& path, const ConfigCheck& check, const DisksOf& disks_of = {});

/// Marks the snapshot as taken by a `shared` restore, before its memory.bin is written. The caller holds
/// lock_memory(Exclusive). `by` is for people. Durable when it returns.
Status mark_consumed(OpenSnapshot& snapshot, const std::string& by);

/// Adds memory.digests to a snapshot taken without (link, reflink): reads all of memory.bin, `threads` at a
/// time (see verify_memory()). Nothing to do if it has them. False when cancelled; a Conflict when a shared
/// restore took the memory meanwhile. Until it returns, and when it is killed, the snapshot is as it was.
Result<bool> record_memory_digests(OpenSnapshot& snapshot, const VerifyProgress& progress = {},
                                   unsigned threads = 0);

}  // namespace vmmd::snapshot
