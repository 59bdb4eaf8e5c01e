#include "daemon/control/status_board.h"

#include <utility>

#include <fmt/format.h>

namespace vmmd::control {

void StatusBoard::publish(std::shared_ptr<const api::VmInfo> info) {
  const std::lock_guard lock(mutex_);
  info_ = std::move(info);
}

void StatusBoard::set_machine(const vm::Machine* machine) {
  const std::lock_guard lock(machine_mutex_);
  machine_ = machine;
}

std::shared_ptr<snapshot::Job> StatusBoard::start_job(const std::string& kind) {
  const std::lock_guard lock(mutex_);
  // NOLINTNEXTLINE(cppcoreguidelines-owning-memory): the deleter owns it
  std::shared_ptr<snapshot::Job> job(new snapshot::Job(fmt::format("{}-{}", kind, next_job_++), kind),
                                     [this](snapshot::Job* ended) {
                                       const std::unique_ptr<snapshot::Job> owned(ended);
                                       take_off(ended->id());
                                     });
  if (closed_) job->cancel();
  jobs_[job->id()].job = job;
  return job;
}

void StatusBoard::take_off(const std::string& id) {
  std::vector<std::function<void()>> ended;
  {
    const std::lock_guard lock(mutex_);
    const auto found = jobs_.find(id);
    if (found == jobs_.end()) return;
    ended = std::move(found->second.ended);
    jobs_.erase(found);
  }
  for (const auto& tell : ended) tell();
}

bool StatusBoard::cancel_job(const std::string& id, std::function<void()> ended) {
  std::shared_ptr<snapshot::Job> job;  // let go of after the lock: it may be the last
  {
    const std::lock_guard lock(mutex_);
    const auto found = jobs_.find(id);
    if (found == jobs_.end()) return false;
    found->second.ended.push_back(std::move(ended));
    job = found->second.job.lock();
  }
  if (job) job->cancel();
  return true;
}

// To be let go of without the lock.
std::vector<std::shared_ptr<snapshot::Job>> StatusBoard::jobs() const {
  std::vector<std::shared_ptr<snapshot::Job>> jobs;
  const std::lock_guard lock(mutex_);
  for (const auto& [id, entry] : jobs_) {
    if (auto job = entry.job.lock()) jobs.push_back(std::move(job));
  }
  return jobs;
}

void StatusBoard::cancel_all_jobs() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  for (const auto& job : jobs()) job->cancel();
}

Result<std::shared_ptr<const api::VmInfo>> StatusBoard::info() const {
  std::shared_ptr<const api::VmInfo> published;
  {
    const std::lock_guard lock(mutex_);
    published = info_;
  }
  if (!published) return fail(ErrorCode::NotFound, "there is no VM; vm.create or vm.restore one first");
  std::uint64_t memory = published->memory_actual_size;
  {
    const std::lock_guard lock(machine_mutex_);
    if (machine_ != nullptr) memory = machine_->memory_actual_size();  // the guest changes it by itself
  }
  const auto jobs = this->jobs();
  if (jobs.empty() && memory == published->memory_actual_size) return published;
  auto now = std::make_shared<api::VmInfo>(*published);
  for (const auto& job : jobs) now->jobs.push_back(job->status());
  now->memory_actual_size = memory;
  return std::shared_ptr<const api::VmInfo>(std::move(now));
}

Result<api::Counters> StatusBoard::counters() const {
  VMMD_TRY(info());
  const std::lock_guard lock(machine_mutex_);
  return machine_ == nullptr ? api::Counters{} : machine_->counters();
}

}  // namespace vmmd::control
