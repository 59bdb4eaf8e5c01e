#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "api/config_pci.h"

namespace vmmd::api {

enum class ConsoleMode : std::uint8_t { Off, Pty, Tty, File, Socket, Null };

/// COM1.
struct SerialConfig {
  ConsoleMode mode = ConsoleMode::Null;
  std::optional<std::string> file;
  std::optional<std::string> socket;

  bool operator==(const SerialConfig&) const = default;
};

/// virtio-console. Cloud Hypervisor's default is Tty; ours is Off: a guest gets a console when asked for.
struct ConsoleConfig {
  ConsoleMode mode = ConsoleMode::Off;
  std::optional<std::string> file;
  std::optional<std::string> socket;
  PciDeviceConfig pci;

  bool operator==(const ConsoleConfig&) const = default;
};

/// One output port (QEMU's isa-debugcon).
struct DebugConsoleConfig {
  ConsoleMode mode = ConsoleMode::Off;
  std::optional<std::string> file;
  std::uint16_t iobase = 0xe9;

  bool operator==(const DebugConsoleConfig&) const = default;
};

}  // namespace vmmd::api
