#include "daemon/control/service.h"

#include <utility>

#include <fmt/format.h>

#include "api/validate.h"
#include "daemon/log.h"

namespace vmmd::control {

DaemonService::DaemonService(api::EventBus& events, VmControl::Options options)
    : request_exit_(options.request_exit),
      control_(events, board_, queue_, std::move(options)),
      events_(events) {}

DaemonService::~DaemonService() {
  board_.cancel_all_jobs();
  queue_.post([this] { static_cast<void>(control_.remove()); });
  queue_.close();
}

void DaemonService::start() {
  queue_.post([this] { control_.warm_up(); });
  queue_.start();
}

void DaemonService::create(api::VmConfig config, api::Done<void> done) {
  // Shared: std::function wants copies, and a configuration may be large.
  auto shared = std::make_shared<api::VmConfig>(std::move(config));
  queue_.post([this, shared, done = std::move(done)] {
    Status status = api::validate(*shared);
    if (status) status = control_.create(std::move(*shared));
    if (!status) log_warning("vm.create: {}", status.error().to_string());
    done(std::move(status));
  });
}

void DaemonService::command(api::Command command, api::Done<void> done) {
  queue_.post([this, command, done = std::move(done)] {
    Status status = run(command);
    if (!status) log_warning("{}: {}", api::to_string(command), status.error().to_string());
    done(std::move(status));
    if (command == api::Command::VmmShutdown) {
      events_.publish("vmm", "shutdown");
      request_exit_();
    }
  });
}

Status DaemonService::run(api::Command command) {
  switch (command) {
    case api::Command::Boot:
      return control_.boot();
    case api::Command::Pause:
      return control_.pause();
    case api::Command::Resume:
      return control_.resume();
    case api::Command::Shutdown:
      return control_.shutdown();
    case api::Command::Reboot:
      return control_.reboot();
    case api::Command::Delete:
      return control_.remove();
    case api::Command::PowerButton:
      return control_.power_button();
    case api::Command::Nmi:
      return control_.nmi();
    case api::Command::VmmShutdown:
      return control_.remove();
  }
  return fail(ErrorCode::Internal, "unknown command");
}

std::shared_ptr<snapshot::Job> DaemonService::new_job(const char* kind) {
  auto job = std::make_shared<snapshot::Job>(fmt::format("{}-{}", kind, next_job_.fetch_add(1)), kind);
  board_.add_job(job);
  return job;
}

std::string DaemonService::snapshot(api::SnapshotRequest request, api::Done<api::SnapshotResult> done) {
  auto job = new_job("snapshot");
  queue_.post([this, job, request = std::move(request), done = std::move(done)] {
    auto result = control_.snapshot(request, *job);
    board_.remove_job(job->id());
    if (!result) log_warning("vm.snapshot: {}", result.error().to_string());
    done(std::move(result));
  });
  return job->id();
}

void DaemonService::restore(api::RestoreRequest request, api::Done<void> done) {
  auto job = new_job("restore");
  queue_.post([this, job, request = std::move(request), done = std::move(done)] {
    auto result = control_.restore(request, *job);
    board_.remove_job(job->id());
    if (!result) log_warning("vm.restore: {}", result.error().to_string());
    done(std::move(result));
  });
}

void DaemonService::cancel(std::string job_id, api::Done<void> done) {
  const auto job = board_.find_job(job_id);
  if (!job) {
    done(fail(ErrorCode::NotFound, "there is no job {}", job_id));
    return;
  }
  job->cancel();
  // The VM thread runs one command at a time, so what is queued behind the job runs when the job has ended.
  queue_.post([done = std::move(done)] { done({}); });
}

void DaemonService::shut_down() {
  board_.cancel_all_jobs();
  command(api::Command::VmmShutdown, [](const Status&) {});
}

}  // namespace vmmd::control
