#include "daemon/control/service.h"

#include <string>
#include <vector>

#include <doctest/doctest.h>

using namespace vmmd;
using control::DaemonService;

TEST_CASE("more commands than may wait are refused, and those that wait are not") {
  api::EventBus events;
  std::vector<std::string> answers;
  {
    DaemonService service(
        events, {.no_shutdown = false, .exit_on_crash = false, .request_exit = [](bool /*failed*/) {}});
    const auto answer = [&answers](const Status& status) {
      answers.push_back(status ? "done" : status.error().to_string());
    };
    for (int i = 0; i < 32; ++i)
      service.command(api::Command::Pause, answer);  // the VM thread has not started
    CHECK(answers.empty());
    service.command(api::Command::Pause, answer);
    REQUIRE(answers.size() == 1);
    CHECK(answers[0].starts_with("32 commands wait already"));
    api::RestoreRequest restore;
    service.restore(restore, {}, answer);
    CHECK(answers.size() == 2);
    answers.clear();
    service.start();
  }
  CHECK(answers.size() == 32);
}

TEST_CASE("the end is said once, and orderly however many commands wait") {
  api::EventBus events;
  std::vector<std::string> seen;
  const auto handle = events.subscribe([&seen](const std::shared_ptr<const std::string>& line,
                                               std::uint64_t /*sequence*/) { seen.push_back(*line); });
  int exits = 0;
  {
    DaemonService service(events, {.no_shutdown = false,
                                   .exit_on_crash = false,
                                   .request_exit = [&exits](bool failed) { exits += failed ? 100 : 1; }});
    for (int i = 0; i < 40; ++i) service.command(api::Command::Pause, [](const Status&) {});
    service.shut_down();
    service.shut_down();
    service.start();
  }
  CHECK(exits == 1);
  REQUIRE(seen.size() == 1);
  CHECK(seen[0].find(R"("source":"vmm","event":"shutdown")") != std::string::npos);
}
