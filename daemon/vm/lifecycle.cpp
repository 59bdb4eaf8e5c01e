#include "daemon/vm/lifecycle.h"

#include <array>

namespace vmmd::vm {

namespace {

// One bit per state, and one for "there is no VM".
constexpr unsigned kNone = 1U << 0;
constexpr unsigned bit(api::VmState state) {
  return 2U << static_cast<unsigned>(state);
}
constexpr unsigned kCreated = bit(api::VmState::Created);
constexpr unsigned kRunning = bit(api::VmState::Running);
constexpr unsigned kPaused = bit(api::VmState::Paused);
constexpr unsigned kShutdown = bit(api::VmState::Shutdown);

struct Row {
  std::string_view name;
  unsigned legal;
  std::string_view needs;  // for the message
};

// In the order of Action.
constexpr std::array kTable{
    Row{"vm.create", kNone, "no VM: delete the present one first"},
    Row{"vm.boot", kCreated | kShutdown, "a VM that is Created or Shutdown"},
    Row{"vm.pause", kRunning, "a VM that is Running"},
    Row{"vm.resume", kPaused, "a VM that is Paused"},
    Row{"vm.shutdown", kRunning | kPaused, "a VM that is Running or Paused"},
    Row{"vm.reboot", kRunning | kPaused, "a VM that is Running or Paused"},
    Row{"vm.delete", kNone | kCreated | kRunning | kPaused | kShutdown, ""},
    Row{"vm.power-button", kRunning, "a VM that is Running"},
    Row{"vm.nmi", kRunning, "a VM that is Running"},
    Row{"vm.snapshot", kPaused, "a VM that is Paused, or \"pause\": true"},
    Row{"vm.snapshot", kRunning | kPaused, "a VM that is Running or Paused"},
    Row{"vm.resize", kCreated | kRunning | kPaused | kShutdown, ""},
    Row{"vm.resize-disk", kCreated | kRunning | kPaused | kShutdown, ""},
    Row{"vm.restore", kNone, "no VM: delete the present one first"},
};
static_assert(kTable.size() == static_cast<std::size_t>(Action::Restore) + 1);

}  // namespace

Status check_action(Action action, std::optional<api::VmState> state) {
  const Row& row = kTable.at(static_cast<std::size_t>(action));
  if ((row.legal & (state ? bit(*state) : kNone)) != 0) return {};
  if (!state)
    return fail(ErrorCode::NotFound, "{}: there is no VM; vm.create or vm.restore one first", row.name);
  return fail(ErrorCode::WrongState, "{} is not possible while the VM is {}: it needs {}", row.name,
              api::to_string(*state), row.needs);
}

}  // namespace vmmd::vm
