#pragma once

#include <memory>

#include "api/config_console.h"
#include "daemon/chardev/char_config.h"
#include "daemon/loop/device_loop.h"
#include "daemon/vm/host_end.h"
#include "devices/char_backend.h"

namespace vmmd::vm {

/// What a console's options ask for. `append`: a file goes on at its end.
[[nodiscard]] chardev::CharConfig char_config(api::ConsoleMode mode, const std::optional<std::string>& file,
                                              const std::optional<std::string>& socket, bool append);

/// The host's end of virtio-console: pty, socket, file or vmmd's own terminal. A reboot keeps it.
class ConsoleEnd final : public HostEnd {
 public:
  /// `config` is not Off. `loop` is the one that the device is given, and outlives this.
  static Result<std::unique_ptr<HostEnd>> open(const api::ConsoleConfig& config, loop::DeviceLoop& loop,
                                               bool append);
  Result<std::unique_ptr<devices::VirtioDevice>> make_device(const DeviceGlue& glue) override;
  void describe(api::VmConfig& shown) const override;
  void drain(std::chrono::milliseconds limit) override { backend_->drain(limit); }

 private:
  explicit ConsoleEnd(std::unique_ptr<devices::CharBackend> backend) : backend_(std::move(backend)) {}
  const std::unique_ptr<devices::CharBackend> backend_;
};

}  // namespace vmmd::vm
