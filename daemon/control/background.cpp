#include "daemon/control/background.h"

#include <utility>

#include "daemon/control/announce.h"
#include "daemon/log.h"
#include "daemon/snapshot/format/reseal.h"

namespace vmmd::control {

namespace {

constexpr unsigned kThreads = 1;  // the guest's vCPUs have the others

snapshot::VerifyProgress progress_of(snapshot::Job& job) {
  return [&job](std::uint64_t done, std::uint64_t total) {
    job.set_progress(done, total);
    return !job.cancelled();
  };
}

}  // namespace

Background::~Background() {
  board_.cancel_all_jobs();
}

void Background::record_digests(std::shared_ptr<snapshot::Job> job, snapshot::OpenSnapshot snapshot) {
  job->enter_phase("digests");
  // Shared: std::function wants copies.
  auto shared = std::make_shared<snapshot::OpenSnapshot>(std::move(snapshot));
  thread_.post([this, job = std::move(job), shared]() mutable {
    const auto recorded = job->cancelled()
                              ? Result<bool>(false)
                              : snapshot::record_memory_digests(*shared, progress_of(*job), kThreads);
    const std::string id = job->id();
    job.reset();
    if (recorded && *recorded) {
      announce(events_, "vm", "digests-recorded",
               {{"job", id}, {"id", shared->manifest.snapshot_id()}, {"path", shared->path.native()}});
      return;
    }
    const std::string why = recorded ? id + " was cancelled" : recorded.error().to_string();
    log_warning("no digests of memory for {}, which is complete without them: {}", shared->path.native(),
                why);
    announce(events_, "vm", "digests-not-recorded",
             {{"job", id},
              {"id", shared->manifest.snapshot_id()},
              {"path", shared->path.native()},
              {"error", why}});
  });
}

void Background::verify(std::shared_ptr<snapshot::Job> job, snapshot::OpenSnapshot snapshot,
                        Verified verified) {
  job->enter_phase("verify");
  auto shared = std::make_shared<snapshot::OpenSnapshot>(std::move(snapshot));
  thread_.post([job = std::move(job), shared, verified = std::move(verified)]() mutable {
    if (!job->cancelled()) {
      auto report = snapshot::verify_memory(*shared, progress_of(*job), kThreads);
      if (report)
        report->damaged_layers = snapshot::damaged_layers(*shared, [&job] { return job->cancelled(); });
      if (!job->cancelled()) verified(report);
    }
    shared.reset();  // who waits for the job's end finds nothing open
  });
}

}  // namespace vmmd::control
