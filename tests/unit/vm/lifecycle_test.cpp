#include "daemon/vm/lifecycle.h"

#include <array>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

using namespace vmmd;
using vm::Action;
using State = std::optional<api::VmState>;

namespace {

struct Row {
  Action action;
  std::string_view name;
  std::string_view answers;  // one letter per state below: y legal, - wrong state, n there is no VM
};

constexpr std::array<std::string_view, 5> kStateNames{"", "Created", "Running", "Paused", "Shutdown"};
const std::array<State, 5> kStates{std::nullopt, api::VmState::Created, api::VmState::Running,
                                   api::VmState::Paused, api::VmState::Shutdown};

// The table of lifecycle.h, written down a second time.
constexpr std::array kRows{
    Row{Action::Create, "vm.create", "y----"},
    Row{Action::Boot, "vm.boot", "ny--y"},
    Row{Action::Pause, "vm.pause", "n-y--"},
    Row{Action::Resume, "vm.resume", "n--y-"},
    Row{Action::Shutdown, "vm.shutdown", "n-yy-"},
    Row{Action::Reboot, "vm.reboot", "n-yy-"},
    Row{Action::Delete, "vm.delete", "yyyyy"},
    Row{Action::PowerButton, "vm.power-button", "n-y--"},
    Row{Action::Nmi, "vm.nmi", "n-y--"},
    Row{Action::Snapshot, "vm.snapshot", "n--y-"},
    Row{Action::SnapshotWithPause, "vm.snapshot", "n-yy-"},
    Row{Action::Resize, "vm.resize", "nyyyy"},
    Row{Action::ResizeDisk, "vm.resize-disk", "nyyyy"},
    Row{Action::Restore, "vm.restore", "y----"},
};

template <class Check>
void for_each_cell(char answer, Check check) {
  for (const Row& row : kRows) {
    for (std::size_t i = 0; i < kStates.size(); ++i) {
      if (row.answers[i] != answer) continue;
      CAPTURE(row.name);
      CAPTURE(kStateNames[i]);
      check(row, vm::check_action(row.action, kStates[i]), kStateNames[i]);
    }
  }
}

bool contains(const Status& status, std::string_view text) {
  return status.error().to_string().find(text) != std::string::npos;
}

}  // namespace

TEST_CASE("every action has a row here") {
  for (std::size_t i = 0; i < kRows.size(); ++i) CHECK(static_cast<std::size_t>(kRows[i].action) == i);
  CHECK(kRows.size() == static_cast<std::size_t>(Action::Restore) + 1);
}

TEST_CASE("legal actions are allowed in every state that the table names") {
  for_each_cell('y', [](const Row&, const Status& status, std::string_view) { CHECK(status); });
}

TEST_CASE("in a wrong state the answer is 405 and names the action, the state and what is needed") {
  for_each_cell('-', [](const Row& row, const Status& status, std::string_view state) {
    REQUIRE_FALSE(status);
    CHECK(status.error().code == ErrorCode::WrongState);
    CHECK(contains(status, std::string(row.name) + " is not possible"));
    CHECK(contains(status, "the VM is " + std::string(state)));
    CHECK(contains(status, "it needs "));
  });
}

TEST_CASE("without a VM the answer is 404, names the action and says how to get one") {
  for_each_cell('n', [](const Row& row, const Status& status, std::string_view) {
    REQUIRE_FALSE(status);
    CHECK(status.error().code == ErrorCode::NotFound);
    CHECK(contains(status, std::string(row.name) + ": there is no VM"));
    CHECK(contains(status, "vm.create or vm.restore"));
  });
}

TEST_CASE("a second VM is refused with what to do about the first") {
  CHECK(contains(vm::check_action(Action::Create, api::VmState::Running), "delete the present one first"));
  CHECK(contains(vm::check_action(Action::Restore, api::VmState::Shutdown), "delete the present one first"));
}

TEST_CASE("a snapshot of a running VM is refused with the way to have it") {
  CHECK(contains(vm::check_action(Action::Snapshot, api::VmState::Running), "\"pause\": true"));
}
