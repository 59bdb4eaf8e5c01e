#include "daemon/control/service.h"

#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "api/validate.h"
#include "daemon/control/announce.h"
#include "daemon/log.h"

namespace vmmd::control {

namespace {

/// More are a mistake of the client's, or an attack: each holds its request's memory.
constexpr unsigned kMostWaiting = 32;

}  // namespace

DaemonService::DaemonService(api::EventBus& events, VmControl::Options options)
    : events_(events),
      request_exit_(std::exchange(options.request_exit, [this](bool failed) { exit(failed); })),
      control_(events, board_, queue_, std::move(options)) {}

DaemonService::~DaemonService() {
  board_.cancel_all_jobs();
  queue_.post([this] { static_cast<void>(control_.remove()); });
  queue_.close();
}

void DaemonService::start(bool vm_follows) {
  queue_.post([this, vm_follows] { control_.warm_up(!vm_follows); });
  queue_.start();
}

template <class T>
void DaemonService::ask(std::string_view name, api::Done<T> done, std::function<Result<T>()> run) {
  if (waiting_.fetch_add(1) >= kMostWaiting) {
    waiting_.fetch_sub(1);
    done(fail(ErrorCode::TooMany, "{} commands wait already: ask again when some have been answered",
              kMostWaiting));
    return;
  }
  queue_.post([this, name, done = std::move(done), run = std::move(run)] {
    const auto begin = std::chrono::steady_clock::now();
    Result<T> result = run();
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
    if (result) {
      log_debug("{}: done in {:.2f} ms", name, time.count());
    } else {
      log_warning("{}: {}", name, result.error().to_string());
    }
    waiting_.fetch_sub(1);
    done(std::move(result));
  });
}

void DaemonService::create(api::VmConfig config, api::PassedFds fds, api::Done<void> done) {
  // Shared: std::function wants copies, and a configuration may be large.
  auto shared = std::make_shared<api::VmConfig>(std::move(config));
  auto passed = std::make_shared<api::PassedFds>(std::move(fds));
  ask<void>("vm.create", std::move(done), [this, shared, passed]() -> Status {
    api::PassedFds mine = std::exchange(*passed, {});  // closed before the answer, unless the VM has them
    VMMD_TRY(api::validate(*shared));
    return control_.create(std::move(*shared), std::move(mine));
  });
}

void DaemonService::command(api::Command command, api::Done<void> done) {
  if (command == api::Command::VmmShutdown) {
    done = [this, done = std::move(done)](Status status) {
      const bool ended = status.has_value();
      done(std::move(status));
      if (ended) exit(/*failed=*/false);
    };
  }
  // Prefaulting takes its time: a job can be watched, and cancelled.
  std::shared_ptr<snapshot::Job> job;
  if (command == api::Command::Boot) job = board_.start_job("boot");
  if (command == api::Command::Reboot) job = board_.start_job("reboot");
  ask<void>(api::to_string(command), std::move(done), [this, command, job = std::move(job)]() mutable {
    const auto owned = std::move(job);
    return run(command, owned.get());
  });
}

Status DaemonService::run(api::Command command, snapshot::Job* job) {
  switch (command) {
    case api::Command::Boot:
      return control_.boot(*job);
    case api::Command::Pause:
      return control_.pause();
    case api::Command::Resume:
      return control_.resume();
    case api::Command::Shutdown:
      return control_.shutdown();
    case api::Command::Reboot:
      return control_.reboot_if_bootable(*job);
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

// A job is off the board when its last owner has let go of it: before its command is answered, unless part of
// it goes on in the background.
std::string DaemonService::snapshot(api::SnapshotRequest request, api::Done<api::SnapshotResult> done) {
  auto job = board_.start_job("snapshot");
  std::string id = job->id();
  ask<api::SnapshotResult>("vm.snapshot", std::move(done),
                           [this, job = std::move(job), request = std::move(request)]() mutable {
                             return control_.snapshot(request, std::move(job));
                           });
  return id;
}

void DaemonService::resize(api::ResizeRequest request, api::Done<void> done) {
  ask<void>("vm.resize", std::move(done), [this, request] { return control_.resize(request); });
}

void DaemonService::resize_disk(api::ResizeDiskRequest request, api::Done<void> done) {
  ask<void>("vm.resize-disk", std::move(done),
            [this, request = std::move(request)] { return control_.resize_disk(request); });
}

void DaemonService::restore(api::RestoreRequest request, api::PassedFds fds, api::Done<void> done) {
  auto passed = std::make_shared<api::PassedFds>(std::move(fds));
  ask<void>("vm.restore", std::move(done),
            [this, job = board_.start_job("restore"), request = std::move(request), passed]() mutable {
              return control_.restore(request, std::exchange(*passed, {}), std::move(job));
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
  queue_.post([this] {  // however many commands wait
    static_cast<void>(control_.remove());
    exit(/*failed=*/false);
  });
}

void DaemonService::exit(bool failed) {
  if (exiting_.exchange(true)) return;
  announce(events_, "vmm", "shutdown");
  request_exit_(failed);
}

}  // namespace vmmd::control
