#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "api/types.h"
#include "base/result.h"

namespace vmmd::vm {

/// Everything that changes or needs the VM's state.
enum class Action : std::uint8_t {
  Create,
  Boot,
  Pause,
  Resume,
  Shutdown,
  Reboot,
  Delete,
  PowerButton,
  Nmi,
  Snapshot,
  SnapshotWithPause,  // vm.snapshot with `pause`: of a running VM too
  Resize,
  ResizeDisk,
  Restore,
};

/// The lifecycle table: whether `action` is legal now. `state` is empty while there is no VM.
///
/// | action                  | none | Created | Running | Paused | Shutdown |
/// |-------------------------|------|---------|---------|--------|----------|
/// | vm.create, vm.restore   | yes  |         |         |        |          |
/// | vm.boot                 | 404  | yes     |         |        | yes      |
/// | vm.pause                | 404  |         | yes     |        |          |
/// | vm.resume               | 404  |         |         | yes    |          |
/// | vm.shutdown, vm.reboot  | 404  |         | yes     | yes    |          |
/// | vm.delete               | yes  | yes     | yes     | yes    | yes      |
/// | vm.resize, resize-disk  | 404  | yes     | yes     | yes    | yes      |
/// | vm.power-button, vm.nmi | 404  |         | yes     |        |          |
/// | vm.snapshot             | 404  |         |         | yes    |          |
/// | vm.snapshot with pause  | 404  |         | yes     | yes    |          |
///
/// NotFound where there is no VM, WrongState (405) for the empty cells; both name action and state. vm.delete
/// of nothing is fine, as in Cloud Hypervisor.
Status check_action(Action action, std::optional<api::VmState> state);

}  // namespace vmmd::vm
