#include "daemon/vm/host_side.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "daemon/chardev/factory.h"
#include "daemon/vm/device_table.h"

namespace vmmd::vm {

namespace {

constexpr std::chrono::milliseconds kDrainLimit{500};

chardev::CharConfig char_config(api::ConsoleMode mode, const std::optional<std::string>& file,
                                const std::optional<std::string>& socket, HostSide::Life life) {
  using chardev::CharMode;
  switch (mode) {
    case api::ConsoleMode::Off:
      return {CharMode::Off, {}, false};
    case api::ConsoleMode::Null:
      return {CharMode::Null, {}, false};
    case api::ConsoleMode::Tty:
      return {CharMode::Tty, {}, false};
    case api::ConsoleMode::Pty:
      return {CharMode::Pty, {}, false};
    case api::ConsoleMode::File:
      return {CharMode::File, file.value_or(""), life == HostSide::Life::Restored};
    case api::ConsoleMode::Socket:
      return {CharMode::Socket, socket.value_or(""), false};
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<HostSide>> HostSide::open(const api::VmConfig& config, Life life) {
  std::unique_ptr<HostSide> host(new HostSide);
  VMMD_TRY(host->loop_.start());
  const api::SerialConfig& serial = config.serial;
  auto backend =
      chardev::make_char_backend(char_config(serial.mode, serial.file, serial.socket, life), host->loop_);
  if (!backend) return wrap(std::move(backend).error(), "cannot open the serial port's host side");
  host->serial_ = std::move(*backend);
  const api::DebugConsoleConfig& debug = config.debug_console;
  auto console =
      chardev::make_char_backend(char_config(debug.mode, debug.file, std::nullopt, life), host->loop_);
  if (!console) return wrap(std::move(console).error(), "cannot open the debug console's host side");
  host->debug_console_ = std::move(*console);
  VMMD_TRY(host->open_devices(config, life));
  return host;
}

Status HostSide::open_devices(api::VmConfig config, Life life) {
  const HostGlue glue{.loop = loop_, .restored = life == Life::Restored};
  for (const ConfiguredDevice& device : configured_devices(config)) {
    if (!device.pci->pci_device_id) continue;
    auto end = device.open(glue);
    if (!end) return wrap(std::move(end).error(), "{}", device.pointer);
    devices_.push_back({*device.pci->pci_device_id, std::move(*end)});
  }
  return {};
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
}

}  // namespace vmmd::vm
