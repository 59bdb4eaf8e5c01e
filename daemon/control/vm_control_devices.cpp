#include <algorithm>

#include "daemon/control/announce.h"
#include "daemon/control/vm_control.h"
#include "daemon/log.h"

namespace vmmd::control {

using api::VmState;
using vm::Action;

Status VmControl::resize(const api::ResizeRequest& request) {
  VMMD_TRY(vm::check_action(Action::Resize, state_));
  if (!request.desired_balloon) return {};
  const std::uint64_t bytes = *request.desired_balloon;
  if (!config_.balloon)
    return fail(ErrorCode::BadRequest, "the VM has no balloon: give it \"balloon\" when it is created");
  if (bytes > config_.memory.size) {
    return fail(ErrorCode::BadRequest, "a balloon of {} bytes is larger than the VM's RAM of {}", bytes,
                config_.memory.size);
  }
  if (machine_) VMMD_TRY(machine_->resize_balloon(bytes));
  config_.balloon->size = bytes;
  publish(state_);
  announce(events_, "vm", "resized", {{"balloon", std::to_string(bytes)}});
  return {};
}

Status VmControl::resize_disk(const api::ResizeDiskRequest& request) {
  VMMD_TRY(vm::check_action(Action::ResizeDisk, state_));
  const auto disk = std::find_if(config_.disks.begin(), config_.disks.end(),
                                 [&](const api::DiskConfig& each) { return each.pci.id == request.id; });
  vm::HostEnd* const end =
      disk != config_.disks.end() && host_ ? host_->find(disk->pci.pci_device_id.value_or(0)) : nullptr;
  if (end == nullptr) return fail(ErrorCode::NotFound, "there is no disk \"{}\"", request.id);
  VMMD_TRY(end->resize(request.desired_size));
  if (machine_) machine_->host_end_changed(*disk->pci.pci_device_id);
  announce(events_, "vm", "resized", {{"disk", request.id}, {"size", std::to_string(request.desired_size)}});
  return {};
}

// The guest's write waits: it stands still until somebody has made room and says vm.resume.
void VmControl::on_disk_full(std::uint64_t generation, const std::string& unit, const std::string& what) {
  if (generation != generation_ || !machine_) return;
  const bool was_running = state_ == VmState::Running;
  Status status;
  if (was_running) status = pause();
  if (status && machine_->full_disks().empty()) {
    // There is room already: a resume since has tried the write again.
    if (was_running) status = resume();
    if (!status) log_error("vm.resume: {}", status.error().to_string());
    return;
  }
  if (!status) log_error("vm.pause: {}", status.error().to_string());
  log_warning("{}: {}: the VM is paused; make room, then resume it", unit, what);
  events_.publish("device", "disk-full", {{"unit", unit}, {"error", what}});
}

}  // namespace vmmd::control
