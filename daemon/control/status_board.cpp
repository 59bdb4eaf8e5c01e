#include "daemon/control/status_board.h"

#include <utility>

namespace vmmd::control {

void StatusBoard::publish(std::shared_ptr<const api::VmInfo> info) {
  const std::lock_guard lock(mutex_);
  info_ = std::move(info);
}

void StatusBoard::set_machine(const vm::Machine* machine) {
  const std::lock_guard lock(machine_mutex_);
  machine_ = machine;
}

void StatusBoard::add_job(std::shared_ptr<snapshot::Job> job) {
  const std::lock_guard lock(mutex_);
  jobs_.emplace(job->id(), std::move(job));
}

void StatusBoard::remove_job(const std::string& id) {
  const std::lock_guard lock(mutex_);
  jobs_.erase(id);
}

std::shared_ptr<snapshot::Job> StatusBoard::find_job(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const auto found = jobs_.find(id);
  return found == jobs_.end() ? nullptr : found->second;
}

void StatusBoard::cancel_all_jobs() {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, job] : jobs_) job->cancel();
}

Result<std::shared_ptr<const api::VmInfo>> StatusBoard::info() const {
  const std::lock_guard lock(mutex_);
  if (!info_) return fail(ErrorCode::NotFound, "there is no VM; vm.create or vm.restore one first");
  if (jobs_.empty()) return info_;
  auto with_jobs = std::make_shared<api::VmInfo>(*info_);
  for (const auto& [id, job] : jobs_) with_jobs->jobs.push_back(job->status());
  return std::shared_ptr<const api::VmInfo>(std::move(with_jobs));
}

Result<api::Counters> StatusBoard::counters() const {
  VMMD_TRY(info());
  const std::lock_guard lock(machine_mutex_);
  return machine_ == nullptr ? api::Counters{} : machine_->counters();
}

}  // namespace vmmd::control
