#include "api/types.h"

namespace vmmd::api {

std::string_view to_string(VmState state) {
  switch (state) {
    case VmState::Created:
      return "Created";
    case VmState::Running:
      return "Running";
    case VmState::Paused:
      return "Paused";
    case VmState::Shutdown:
      return "Shutdown";
  }
  return "?";
}

std::string_view to_string(Command command) {
  switch (command) {
    case Command::Boot:
      return "vm.boot";
    case Command::Pause:
      return "vm.pause";
    case Command::Resume:
      return "vm.resume";
    case Command::Shutdown:
      return "vm.shutdown";
    case Command::Reboot:
      return "vm.reboot";
    case Command::Delete:
      return "vm.delete";
    case Command::PowerButton:
      return "vm.power-button";
    case Command::Nmi:
      return "vm.nmi";
    case Command::VmmShutdown:
      return "vmm.shutdown";
  }
  return "?";
}

}  // namespace vmmd::api
