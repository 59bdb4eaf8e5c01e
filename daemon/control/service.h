#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <string_view>

#include "api/events.h"
#include "api/service.h"
#include "daemon/control/command_queue.h"
#include "daemon/control/status_board.h"
#include "daemon/control/vm_control.h"

namespace vmmd::control {

/// The daemon as the HTTP server sees it: answers at once from the status board, or queues for the VM thread.
class DaemonService final : public api::Service {
 public:
  DaemonService(api::EventBus& events, VmControl::Options options);
  /// Ends the VM and the VM thread.
  ~DaemonService() override;

  /// Starts the VM thread. Not in the constructor: the socket listens first. `vm_follows`: a VM is asked for
  /// right behind, so nothing is done ahead that a restored one does not need.
  void start(bool vm_follows = false);

  [[nodiscard]] Result<std::shared_ptr<const api::VmInfo>> info() const override { return board_.info(); }
  [[nodiscard]] Result<api::Counters> counters() const override { return board_.counters(); }
  void create(api::VmConfig config, api::PassedFds fds, api::Done<void> done) override;
  void command(api::Command command, api::Done<void> done) override;
  std::string snapshot(api::SnapshotRequest request, api::Done<api::SnapshotResult> done) override;
  void resize(api::ResizeRequest request, api::Done<void> done) override;
  void resize_disk(api::ResizeDiskRequest request, api::Done<void> done) override;
  void restore(api::RestoreRequest request, api::PassedFds fds, api::Done<void> done) override;
  void cancel(std::string job_id, api::Done<void> done) override;

  /// Orderly end: cancels jobs, deletes the VM, then exits.
  void shut_down();
  /// The end of the daemon, said to whoever listens; once. On any thread.
  void exit(bool failed);

 private:
  /// Queues a user's command for the VM thread, unless too many wait already. Logs what became of it.
  template <class T>
  void ask(std::string_view name, api::Done<T> done, std::function<Result<T>()> run);
  Status run(api::Command command, snapshot::Job* job);

  StatusBoard board_;
  api::EventBus& events_;
  std::function<void(bool failed)> request_exit_;
  std::atomic<bool> exiting_ = false;
  std::atomic<unsigned> waiting_ = 0;  // commands, the one that runs included
  CommandQueue queue_;
  VmControl control_;
};

}  // namespace vmmd::control
