#pragma once

#include <functional>
#include <memory>

#include "api/events.h"
#include "base/result.h"
#include "base/side_thread.h"
#include "daemon/control/status_board.h"
#include "daemon/snapshot/format/open.h"
#include "daemon/snapshot/format/verify.h"
#include "daemon/snapshot/job.h"

namespace vmmd::control {

/// What goes on with snapshots behind a VM that runs already: reading all of their memory. One job at a time,
/// on one thread, because whoever waits for none of them shall not have a busy machine either.
class Background {
 public:
  /// Called once, on the background thread, unless the job was cancelled.
  using Verified = std::function<void(const Result<snapshot::VerifyReport>&)>;

  Background(api::EventBus& events, StatusBoard& board) : events_(events), board_(board) {}
  /// Cancels what is in progress and waits for its end.
  ~Background();
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  /// Adds the digests of memory.bin to a snapshot taken without. Its end is an event.
  void record_digests(std::shared_ptr<snapshot::Job> job, snapshot::OpenSnapshot snapshot);
  /// Compares memory.bin with its digests.
  void verify(std::shared_ptr<snapshot::Job> job, snapshot::OpenSnapshot snapshot, Verified verified);

 private:
  api::EventBus& events_;
  StatusBoard& board_;
  SideThread thread_{"background"};
};

}  // namespace vmmd::control
