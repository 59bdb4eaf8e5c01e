#pragma once

#include <memory>

#include "api/config.h"
#include "api/net_fds.h"
#include "daemon/vm/host_end.h"
#include "devices/net_backend.h"

namespace vmmd::vm {

/// The host's end of a network device: a tap or the connection to passt. A reboot keeps it; one that has
/// failed is opened again then, if it can be.
class NetEnd final : public HostEnd {
 public:
  /// `config` passed validate(), and give_macs() saw it. A network with `fds` takes its taps out of `fds`;
  /// they are gone with this end.
  static Result<std::unique_ptr<HostEnd>> open(const api::NetConfig& config, api::FdsById* fds);
  Result<std::unique_ptr<devices::VirtioDevice>> make_device(const DeviceGlue& glue) override;

 private:
  NetEnd(api::NetConfig config, std::unique_ptr<devices::NetBackend> backend)
      : config_(std::move(config)), backend_(std::move(backend)) {}

  const api::NetConfig config_;
  std::unique_ptr<devices::NetBackend> backend_;
};

/// Gives each network that has none a random, locally administered MAC address. Once, when a VM is created:
/// from then on it is part of the configuration.
Status give_macs(api::VmConfig& config);

}  // namespace vmmd::vm
