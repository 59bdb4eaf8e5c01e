#include "daemon/control/status_board.h"

#include <doctest/doctest.h>

using namespace vmmd;
using control::StatusBoard;
using snapshot::Job;

namespace {

std::shared_ptr<const api::VmInfo> running_vm() {
  auto info = std::make_shared<api::VmInfo>();
  info->state = api::VmState::Running;
  info->memory_actual_size = 0x1234'5000;
  return info;
}

}  // namespace

TEST_CASE("a board without a VM says that there is none, for info and counters") {
  const StatusBoard board;
  REQUIRE_FALSE(board.info());
  CHECK(board.info().error().code == ErrorCode::NotFound);
  REQUIRE_FALSE(board.counters());
  CHECK(board.counters().error().code == ErrorCode::NotFound);
}

TEST_CASE("info is the very object that was published while no job runs") {
  StatusBoard board;
  const auto vm = running_vm();
  board.publish(vm);
  const auto info = board.info();
  REQUIRE(info);
  CHECK(*info == vm);
}

TEST_CASE("the VM is gone from the board once nothing is published") {
  StatusBoard board;
  board.publish(running_vm());
  board.publish(nullptr);
  CHECK_FALSE(board.info());
}

TEST_CASE("running jobs are part of info, with their progress") {
  StatusBoard board;
  board.publish(running_vm());
  const auto job = std::make_shared<Job>("snapshot-7", "snapshot");
  job->enter_phase("memory");
  job->set_total(1000);
  job->add_done(250);
  board.add_job(job);
  const auto info = board.info();
  REQUIRE(info);
  CHECK((*info)->memory_actual_size == 0x1234'5000);
  REQUIRE((*info)->jobs.size() == 1);
  const api::JobStatus& status = (*info)->jobs.front();
  CHECK(status.id == "snapshot-7");
  CHECK(status.kind == "snapshot");
  CHECK(status.phase == "memory");
  CHECK(status.bytes_done == 250);
  CHECK(status.bytes_total == 1000);
  CHECK(status.seconds >= 0);
}

TEST_CASE("a job that ended is gone from info and cannot be found") {
  StatusBoard board;
  board.publish(running_vm());
  board.add_job(std::make_shared<Job>("snapshot-1", "snapshot"));
  CHECK(board.find_job("snapshot-1") != nullptr);
  board.remove_job("snapshot-1");
  CHECK(board.find_job("snapshot-1") == nullptr);
  CHECK((*board.info())->jobs.empty());
}

TEST_CASE("cancelling all jobs reaches each of them") {
  StatusBoard board;
  const auto one = std::make_shared<Job>("snapshot-1", "snapshot");
  const auto two = std::make_shared<Job>("restore-2", "restore");
  board.add_job(one);
  board.add_job(two);
  board.cancel_all_jobs();
  CHECK(one->cancelled());
  CHECK(two->cancelled());
}

TEST_CASE("a cancelled job's check is an error that names it") {
  Job job("snapshot-3", "snapshot");
  CHECK(job.check());
  job.cancel();
  REQUIRE_FALSE(job.check());
  CHECK(job.check().error().to_string() == "snapshot-3 was cancelled");
}

TEST_CASE("a VM without a machine has no counters") {
  StatusBoard board;
  board.publish(running_vm());
  const auto counters = board.counters();
  REQUIRE(counters);
  CHECK(counters->empty());
}
