#pragma once

#include <functional>
#include <memory>
#include <string>

#include "api/passed_fds.h"
#include "api/resize_request.h"
#include "api/types.h"
#include "base/result.h"

namespace vmmd::api {

/// Called once with the outcome, on any thread.
template <class T>
using Done = std::function<void(Result<T>)>;

/// What the daemon implements and the HTTP server calls, always on the API thread. No member blocks: the
/// first three answer from published status, the rest queue work for the VM thread and complete later.
class Service {
 public:
  virtual ~Service() = default;

  /// NotFound where there is no VM. Never null otherwise.
  [[nodiscard]] virtual Result<std::shared_ptr<const VmInfo>> info() const = 0;
  [[nodiscard]] virtual Result<Counters> counters() const = 0;

  /// `fds` are for fd_places(config). Here and in restore(): those that the VM does not get are closed when
  /// `done` is called.
  virtual void create(VmConfig config, PassedFds fds, Done<void> done) = 0;
  virtual void command(Command command, Done<void> done) = 0;
  /// Returns the id of the job, good for cancel() from now on, even while it waits in the queue.
  virtual std::string snapshot(SnapshotRequest request, Done<SnapshotResult> done) = 0;
  virtual void resize(ResizeRequest request, Done<void> done) = 0;
  virtual void resize_disk(ResizeDiskRequest request, Done<void> done) = 0;
  virtual void restore(RestoreRequest request, PassedFds fds, Done<void> done) = 0;
  /// Asks a job to stop; completes when it has.
  virtual void cancel(std::string job_id, Done<void> done) = 0;
};

}  // namespace vmmd::api
