#include "daemon/vm/console_end.h"

#include <utility>

#include "daemon/chardev/factory.h"
#include "devices/virtio/console.h"

namespace vmmd::vm {

chardev::CharConfig char_config(api::ConsoleMode mode, const std::optional<std::string>& file,
                                const std::optional<std::string>& socket, bool append) {
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
      return {CharMode::File, file.value_or(""), append};
    case api::ConsoleMode::Socket:
      return {CharMode::Socket, socket.value_or(""), false};
  }
  return {};
}

Result<std::unique_ptr<HostEnd>> ConsoleEnd::open(const api::ConsoleConfig& config, loop::DeviceLoop& loop,
                                                  bool append) {
  auto backend =
      chardev::make_char_backend(char_config(config.mode, config.file, config.socket, append), loop);
  if (!backend) return wrap(std::move(backend).error(), "cannot open the console's host side");
  return std::unique_ptr<HostEnd>(new ConsoleEnd(std::move(*backend)));
}

Result<std::unique_ptr<devices::VirtioDevice>> ConsoleEnd::make_device(const DeviceGlue& glue) {
  return std::unique_ptr<devices::VirtioDevice>(
      std::make_unique<devices::VirtioConsole>(glue.loop, *backend_));
}

void ConsoleEnd::describe(api::VmConfig& shown) const {
  // As Cloud Hypervisor: the path of a pty is where the file's would be.
  if (shown.console.mode == api::ConsoleMode::Pty) shown.console.file = backend_->path();
}

}  // namespace vmmd::vm
