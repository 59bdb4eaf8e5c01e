#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "api/events.h"
#include "api/passed_fds.h"
#include "api/resize_request.h"
#include "api/types.h"
#include "base/result.h"
#include "daemon/control/background.h"
#include "daemon/control/command_queue.h"
#include "daemon/control/memory_watch.h"
#include "daemon/control/status_board.h"
#include "daemon/kvm/kvm.h"
#include "daemon/snapshot/job.h"
#include "daemon/vm/host_side.h"
#include "daemon/vm/lifecycle.h"
#include "daemon/vm/machine.h"
#include "daemon/x86/cpuid.h"

namespace vmmd::control {

/// The one VM of this daemon and all that can be done to it. Every member runs on the VM thread.
///
/// A command that fails leaves the state it found. After every change the status board is up to date, and an
/// event has been published.
class VmControl {
 public:
  struct Options {
    bool no_shutdown = false;                       // keep the daemon when the guest powers off
    bool exit_on_crash = false;                     // a guest that crashed leaves nobody anything to do
    std::function<void(bool failed)> request_exit;  // ends the daemon; called on the VM thread
  };
  VmControl(api::EventBus& events, StatusBoard& board, CommandQueue& queue, Options options);
  ~VmControl();
  VmControl(const VmControl&) = delete;
  VmControl& operator=(const VmControl&) = delete;

  /// Does ahead of the first VM what is the same for all, so that its start does not wait for that. Errors
  /// wait for then as well. `for_boot`: also what a restore does not need.
  void warm_up(bool for_boot) {
    static_cast<void>(kvm());
    if (for_boot) static_cast<void>(x86::host_cpu_brand());
  }

  /// `fds` are for api::fd_places(), here and in restore(); the VM has them until it is removed.
  Status create(api::VmConfig config, api::PassedFds fds);
  Status boot(snapshot::Job& job);
  Status pause();
  Status resume();
  Status shutdown();
  Status reboot(snapshot::Job& job);
  /// As a user asks for it: what could not boot again is left as it is.
  Status reboot_if_bootable(snapshot::Job& job);
  Status remove();
  Status power_button();
  Status nmi();
  /// The size of the balloon, of the running VM or for when it boots.
  Status resize(const api::ResizeRequest& request);
  /// Makes a disk's image larger, if it is not, and tells the guest.
  Status resize_disk(const api::ResizeDiskRequest& request);
  /// After link and reflink the job goes on: see Background::record_digests().
  Result<api::SnapshotResult> snapshot(const api::SnapshotRequest& request,
                                       std::shared_ptr<snapshot::Job> job);
  /// With verify=lazy the job goes on: see Background::verify().
  Status restore(const api::RestoreRequest& request, api::PassedFds fds, std::shared_ptr<snapshot::Job> job);

 private:
  class GuestSignals;
  Result<std::shared_ptr<const kvm::Kvm>> kvm();
  Status start_machine(snapshot::Job& job);
  Result<snapshot::OpenSnapshot> load_snapshot(const api::RestoreRequest& request, api::PassedFds fds,
                                               snapshot::Job& job);
  Status write_back(const api::SnapshotRequest& request, snapshot::Job& job);
  void record_digests(std::shared_ptr<snapshot::Job> job, const std::string& destination_url);
  void check_memory(std::shared_ptr<snapshot::Job> job, snapshot::OpenSnapshot snapshot);
  void on_memory_checked(std::uint64_t generation, const Result<snapshot::VerifyReport>& report);
  void end_memory_check();
  void report_progress(snapshot::Job& job);
  void drop_machine();
  void forget_vm();
  void publish(std::optional<api::VmState> state);
  void on_guest_reset(std::uint64_t generation);
  void on_guest_shutdown(std::uint64_t generation);
  void on_vcpu_stopped(std::uint64_t generation, const vm::VcpuStop& stop);
  void on_disk_full(std::uint64_t generation, const std::string& unit, const std::string& what);
  void watch_memory();
  void on_memory_lost(std::uint64_t generation);
  void crash(api::EventBus::Properties properties, const std::string& message);

  api::EventBus& events_;
  StatusBoard& board_;
  CommandQueue& queue_;
  const Options options_;

  std::shared_ptr<const kvm::Kvm> kvm_;
  std::optional<api::VmState> state_;  // nothing: there is no VM
  api::VmConfig config_;
  std::unique_ptr<vm::HostSide> host_;
  std::unique_ptr<GuestSignals> signals_;  // outlives the machine
  std::unique_ptr<vm::Machine> machine_;
  std::unique_ptr<MemoryWatch> memory_watch_;  // of machine_, on host_'s loop: goes before both
  std::uint64_t generation_ = 0;               // of machine_: what an earlier one still says is stale

  std::optional<api::MemoryCheck> memory_check_;
  std::weak_ptr<snapshot::Job> memory_check_job_;
  SideThread sync_{"sync"};  // waits for disks
  Background background_;    // goes first: posts to the queue
};

}  // namespace vmmd::control
