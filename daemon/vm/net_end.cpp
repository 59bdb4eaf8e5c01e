#include "daemon/vm/net_end.h"

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "api/mac_address.h"
#include "base/random.h"
#include "daemon/net/passt.h"
#include "daemon/net/tap.h"
#include "daemon/vm/rate_limits.h"
#include "devices/virtio/net.h"

namespace vmmd::vm {

namespace {

using Backend = std::unique_ptr<devices::NetBackend>;

Result<Backend> adopt(const api::NetConfig& config, api::FdsById* fds) {
  auto found = fds == nullptr ? api::FdsById::node_type() : fds->extract(config.pci.id.value_or(""));
  if (found.empty()) {
    return fail(
        ErrorCode::WrongState,
        "its taps were descriptors and are closed: delete the VM, and create or restore it with new ones");
  }
  VMMD_ASSIGN(auto tap, net::TapBackend::adopt(std::move(found.mapped()), config.fds));
  return Backend(std::move(tap));
}

Result<Backend> open_backend(const api::NetConfig& config, api::FdsById* fds) {
  if (config.passt) {
    VMMD_ASSIGN(auto passt, net::PasstBackend::connect(*config.passt));
    return Backend(std::move(passt));
  }
  if (!config.fds.empty()) return adopt(config, fds);
  net::TapBackend::Config tap_config;
  tap_config.name = config.tap.value_or("");
  tap_config.pairs = config.num_queues / 2U;
  if (config.mtu) tap_config.mtu = *config.mtu;
  if (config.host_mac) {
    VMMD_ASSIGN(tap_config.mac, api::parse_mac(*config.host_mac));
  }
  tap_config.ip = config.ip.value_or("");
  tap_config.mask = config.mask.value_or("");
  VMMD_ASSIGN(auto tap, net::TapBackend::open(tap_config));
  return Backend(std::move(tap));
}

}  // namespace

Result<std::unique_ptr<HostEnd>> NetEnd::open(const api::NetConfig& config, api::FdsById* fds) {
  auto backend = open_backend(config, fds);
  if (!backend) {
    return wrap(std::move(backend).error(), "cannot open the host's end of network \"{}\"",
                config.pci.id.value_or(""));
  }
  return std::unique_ptr<HostEnd>(new NetEnd(config, std::move(*backend)));
}

Result<std::unique_ptr<devices::VirtioDevice>> NetEnd::make_device(const DeviceGlue& glue) {
  if (!backend_->failure().empty() && config_.fds.empty()) {
    if (auto again = open_backend(config_, nullptr)) backend_ = std::move(*again);
  }
  devices::NetDevice::Config config;
  config.id = config_.pci.id.value_or("");
  VMMD_ASSIGN(config.mac, api::parse_mac(config_.mac.value_or("")));
  config.mtu = config_.mtu;
  config.pairs = config_.num_queues / 2U;
  config.queue_size = config_.queue_size;
  config.offload_csum = config_.offload_csum;
  config.offload_tso = config_.offload_tso;
  config.offload_ufo = config_.offload_ufo;
  // Each direction has the whole rate, as Cloud Hypervisor's and Firecracker's.
  config.rx_limiter = make_limiter(config_.rate_limiter_config, glue.clock);
  config.tx_limiter = make_limiter(config_.rate_limiter_config, glue.clock);
  return std::unique_ptr<devices::VirtioDevice>(
      std::make_unique<devices::NetDevice>(std::move(config), *backend_, glue.loop, glue.events));
}

Status give_macs(api::VmConfig& config) {
  for (api::NetConfig& net : config.net) {
    if (net.mac) continue;
    api::MacAddress mac{};
    VMMD_TRY(fill_random(std::as_writable_bytes(std::span(mac)), "cannot choose a MAC address"));
    mac[0] = static_cast<std::uint8_t>((mac[0] & 0xfcU) | 0x02U);  // of one station, locally administered
    net.mac = api::mac_text(mac);
  }
  return {};
}

}  // namespace vmmd::vm
