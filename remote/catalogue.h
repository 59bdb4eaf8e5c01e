#pragma once

#include "base/result.h"
#include "remote/command.h"

// `vmm-remote snapshot list|info|check|verify|delete|gc|seal`: on directories, without a daemon.
namespace vmmd::remote {

Status run_snapshot_list(Session& session, const Command& command, const Arguments& arguments);
Status run_snapshot_info(Session& session, const Command& command, const Arguments& arguments);
Status run_snapshot_check(Session& session, const Command& command, const Arguments& arguments);
Status run_snapshot_verify(Session& session, const Command& command, const Arguments& arguments);
Status run_snapshot_digest(Session& session, const Command& command, const Arguments& arguments);
Status run_snapshot_delete(Session& session, const Command& command, const Arguments& arguments);
Status run_snapshot_gc(Session& session, const Command& command, const Arguments& arguments);
Status run_snapshot_seal(Session& session, const Command& command, const Arguments& arguments);

}  // namespace vmmd::remote
