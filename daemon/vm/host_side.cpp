#include "daemon/vm/host_side.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "api/findings.h"
#include "daemon/chardev/factory.h"
#include "daemon/vm/console_end.h"
#include "daemon/vm/device_table.h"

namespace vmmd::vm {

namespace {

constexpr std::chrono::milliseconds kDrainLimit{500};

/// nullptr if the device wants none. The thread's name is that of the device's unit: "disk:root".
Result<std::unique_ptr<loop::DeviceLoop>> own_loop(const ConfiguredDevice& device, const HostEnd& end) {
  auto wish = end.own_loop();
  std::unique_ptr<loop::DeviceLoop> loop;
  if (!wish) return loop;
  loop = std::make_unique<loop::DeviceLoop>();
  std::string name(device.id_prefix);
  if (device.pci != nullptr) name += ":" + device.pci->id.value_or("");
  VMMD_TRY(loop->start({.name = std::move(name), .cpus = std::move(wish->cpus)}));
  return loop;
}

}  // namespace

Result<std::unique_ptr<HostSide>> HostSide::open(const api::VmConfig& config, Life life, api::FdsById fds) {
  return open(config, life, nullptr, fds);
}

Result<std::unique_ptr<HostSide>> HostSide::restore(const api::VmConfig& config, SnapshotFiles files,
                                                    api::FdsById fds) {
  VMMD_ASSIGN(auto host, open(config, Life::Restored, &files, fds));
  if (!files.empty()) {
    return fail(ErrorCode::BadRequest,
                "the snapshot has {}, and no device takes it: a disk with overlay = memory stays one, and so "
                "does a pmem with discard_writes",
                files.begin()->first);
  }
  return host;
}

Result<std::unique_ptr<HostSide>> HostSide::open(const api::VmConfig& config, Life life, SnapshotFiles* files,
                                                 api::FdsById& fds) {
  std::unique_ptr<HostSide> host(new HostSide);
  VMMD_TRY(host->loop_.start());
  const bool append = life == Life::Restored;
  const api::SerialConfig& serial = config.serial;
  auto backend =
      chardev::make_char_backend(char_config(serial.mode, serial.file, serial.socket, append), host->loop_);
  if (!backend) return api::blame("/serial", std::move(backend).error());
  host->serial_ = std::move(*backend);
  const api::DebugConsoleConfig& debug = config.debug_console;
  auto console =
      chardev::make_char_backend(char_config(debug.mode, debug.file, std::nullopt, append), host->loop_);
  if (!console) return api::blame("/debug_console", std::move(console).error());
  host->debug_console_ = std::move(*console);
  VMMD_TRY(host->open_devices(config, life, files, fds));
  return host;
}

Status HostSide::open_devices(api::VmConfig config, Life life, SnapshotFiles* files, api::FdsById& fds) {
  const HostGlue glue{
      .loop = loop_, .restored = life == Life::Restored, .snapshot_files = files, .fds = &fds};
  for (const ConfiguredDevice& device : configured_devices(config)) {
    const auto slot = device.slot();
    if (!slot) continue;
    auto end = device.open(glue);
    if (!end) return api::blame(device.pointer, std::move(end).error());
    auto loop = own_loop(device, **end);
    if (!loop) return api::blame(device.pointer, std::move(loop).error());
    devices_.push_back({*slot, std::move(*loop), std::move(*end)});
  }
  return {};
}

HostEnd* HostSide::find(unsigned slot) const {
  const auto found =
      std::find_if(devices_.begin(), devices_.end(), [slot](const Device& d) { return d.slot == slot; });
  return found != devices_.end() ? found->end.get() : nullptr;
}

std::uint64_t HostSide::memory_end() const {
  std::uint64_t end = 0;
  for (const Device& device : devices_) {
    for (const devices::GuestRegion& region : device.end->memory())
      end = std::max(end, region.start.value + region.size);
  }
  return end;
}

void HostSide::drain_output() {
  if (serial_) serial_->drain(kDrainLimit);
  if (debug_console_) debug_console_->drain(kDrainLimit);
  for (const Device& device : devices_) device.end->drain(kDrainLimit);
}

void HostSide::describe(api::VmConfig& shown) const {
  // As Cloud Hypervisor: the path of a pty is where the file's would be.
  if (shown.serial.mode == api::ConsoleMode::Pty && serial_) shown.serial.file = serial_->path();
  if (shown.debug_console.mode == api::ConsoleMode::Pty && debug_console_)
    shown.debug_console.file = debug_console_->path();
  for (const Device& device : devices_) device.end->describe(shown);
}

}  // namespace vmmd::vm
