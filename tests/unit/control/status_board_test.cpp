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
  const auto job = board.start_job("snapshot");
  job->enter_phase("memory");
  job->set_total(1000);
  job->add_done(250);
  const auto info = board.info();
  REQUIRE(info);
  CHECK((*info)->memory_actual_size == 0x1234'5000);
  REQUIRE((*info)->jobs.size() == 1);
  const api::JobStatus& status = (*info)->jobs.front();
  CHECK(status.id == "snapshot-1");
  CHECK(status.kind == "snapshot");
  CHECK(status.phase == "memory");
  CHECK(status.bytes_done == 250);
  CHECK(status.bytes_total == 1000);
  CHECK(status.seconds >= 0);
}

TEST_CASE("a job is gone from info once its last owner lets go of it") {
  StatusBoard board;
  board.publish(running_vm());
  auto job = board.start_job("snapshot");
  auto another_owner = job;
  job.reset();
  CHECK((*board.info())->jobs.size() == 1);
  another_owner.reset();
  CHECK((*board.info())->jobs.empty());
  CHECK_FALSE(board.cancel_job("snapshot-1", [] {}));
}

TEST_CASE("who cancels a job is told when it has ended, not before") {
  StatusBoard board;
  auto job = board.start_job("snapshot");
  int told = 0;
  CHECK(board.cancel_job("snapshot-1", [&told] { told += 1; }));
  CHECK(board.cancel_job("snapshot-1", [&told] { told += 10; }));
  CHECK(job->cancelled());
  CHECK(told == 0);
  job.reset();
  CHECK(told == 11);
}

TEST_CASE("there is no cancelling a job that never was") {
  StatusBoard board;
  bool told = false;
  CHECK_FALSE(board.cancel_job("snapshot-1", [&told] { told = true; }));
  CHECK_FALSE(told);
}

TEST_CASE("cancelling all jobs reaches each of them") {
  StatusBoard board;
  const auto one = board.start_job("snapshot");
  const auto two = board.start_job("restore");
  board.cancel_all_jobs();
  CHECK(one->cancelled());
  CHECK(two->cancelled());
  SUBCASE("and those that come later") {
    CHECK(board.start_job("boot")->cancelled());
  }
}

TEST_CASE("jobs are named by their kind and a number of their own") {
  StatusBoard board;
  const auto one = board.start_job("snapshot");
  const auto two = board.start_job("restore");
  CHECK(one->id() == "snapshot-1");
  CHECK(two->id() == "restore-2");
  CHECK_FALSE(two->cancelled());
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
