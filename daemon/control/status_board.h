#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "api/types.h"
#include "base/result.h"
#include "daemon/snapshot/job.h"
#include "daemon/vm/machine.h"

namespace vmmd::control {

/// What the API thread may see of the VM without asking the VM thread: its last published state, the jobs in
/// progress, and the machine's counters. Thread-safe; no call waits for more than a copy under a lock.
class StatusBoard {
 public:
  /// By the VM thread, after every change. nullptr: there is no VM.
  void publish(std::shared_ptr<const api::VmInfo> info);
  /// By the VM thread: which machine to ask for counters; nullptr before it is destroyed.
  void set_machine(const vm::Machine* machine);

  /// A new job, named by kind and number, on the board for as long as somebody owns it. The board outlives
  /// it.
  [[nodiscard]] std::shared_ptr<snapshot::Job> start_job(const std::string& kind);
  /// Cancels it. False if there is none of that name; else `ended` is called once it is off the board, on the
  /// thread that let go of it.
  bool cancel_job(const std::string& id, std::function<void()> ended);
  /// At the end of the daemon: a job that is started later is cancelled from its beginning.
  void cancel_all_jobs();

  [[nodiscard]] Result<std::shared_ptr<const api::VmInfo>> info() const;
  [[nodiscard]] Result<api::Counters> counters() const;

 private:
  struct Entry {
    std::weak_ptr<snapshot::Job> job;
    std::vector<std::function<void()>> ended;
  };
  [[nodiscard]] std::vector<std::shared_ptr<snapshot::Job>> jobs() const;
  void take_off(const std::string& id);

  mutable std::mutex mutex_;
  std::shared_ptr<const api::VmInfo> info_;
  std::map<std::string, Entry> jobs_;
  unsigned next_job_ = 1;
  bool closed_ = false;
  mutable std::mutex machine_mutex_;  // apart: counters() holds it while it asks the devices
  const vm::Machine* machine_ = nullptr;
};

}  // namespace vmmd::control
