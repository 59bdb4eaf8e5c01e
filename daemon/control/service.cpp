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

std::shared_ptr<snapshot::Job> DaemonService::new_job(const std::string& kind) {
  return board_.start_job(fmt::format("{}-{}", kind, next_job_.fetch_add(1)), kind);
}

// A job is off the board when its last owner has let go of it: before its command is answered, unless part of
// it goes on in the background.
std::string DaemonService::snapshot(api::SnapshotRequest request, api::Done<api::SnapshotResult> done) {
  auto job = new_job("snapshot");
  std::string id = job->id();
  queue_.post([this, job = std::move(job), request = std::move(request), done = std::move(done)]() mutable {
    auto result = control_.snapshot(request, std::move(job));
    if (!result) log_warning("vm.snapshot: {}", result.error().to_string());
    done(std::move(result));
  });
  return id;
}

void DaemonService::resize(api::ResizeRequest request, api::Done<void> done) {
  queue_.post([this, request, done = std::move(done)] {
    Status status = control_.resize(request);
    if (!status) log_warning("vm.resize: {}", status.error().to_string());
    done(std::move(status));
  });
}

void DaemonService::restore(api::RestoreRequest request, api::Done<void> done) {
  queue_.post(
      [this, job = new_job("restore"), request = std::move(request), done = std::move(done)]() mutable {
        auto result = control_.restore(request, std::move(job));
        if (!result) log_warning("vm.restore: {}", result.error().to_string());
        done(std::move(result));
      });
}

void DaemonService::cancel(std::string job_id, api::Done<void> done) {
  auto shared = std::make_shared<api::Done<void>>(std::move(done));
  if (!board_.cancel_job(job_id, [shared] { (*shared)({}); })) {
    (*shared)(fail(ErrorCode::NotFound, "there is no job {}", job_id));
  }
}

void DaemonService::shut_down() {
  board_.cancel_all_jobs();
  command(api::Command::VmmShutdown, [](const Status&) {});
}

}  // namespace vmmd::control
