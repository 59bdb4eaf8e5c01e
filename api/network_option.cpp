#include <cstdint>
#include <string>

#include "api/config_enums.h"
#include "api/device_option.h"
#include "api/option_text.h"
#include "api/options.h"

namespace vmmd::api {

namespace {

Status read_descriptors(const OptionText& options, std::vector<std::int32_t>& out) {
  const auto text = options.value("fd");
  if (!text) return {};
  auto numbers = parse_descriptors(*text);
  if (!numbers) return options.blame("fd", std::move(numbers).error());
  out = std::move(*numbers);
  return {};
}

}  // namespace

Result<NetConfig> parse_net_option(std::string_view text) {
  VMMD_ASSIGN(const auto options, OptionText::parse("--net", text,
                                                    {"tap",
                                                     "ip",
                                                     "mask",
                                                     "mac",
                                                     "host_mac",
                                                     "mtu",
                                                     "num_queues",
                                                     "queue_size",
                                                     "fd",
                                                     "passt",
                                                     "vhost_user",
                                                     "socket",
                                                     "vhost_mode",
                                                     "offload_tso",
                                                     "offload_ufo",
                                                     "offload_csum",
                                                     "bw_size",
                                                     "bw_one_time_burst",
                                                     "bw_refill_time",
                                                     "ops_size",
                                                     "ops_one_time_burst",
                                                     "ops_refill_time",
                                                     "id",
                                                     "iommu",
                                                     "pci_segment",
                                                     "pci_device_id"}));
  NetConfig net;
  options.read_string("tap", net.tap);
  options.read_string("ip", net.ip);
  options.read_string("mask", net.mask);
  options.read_string("mac", net.mac);
  options.read_string("host_mac", net.host_mac);
  options.read_string("passt", net.passt);
  options.read_string("socket", net.vhost_socket);
  VMMD_TRY(read_pci(options, net.pci));
  if (options.has("mtu")) VMMD_TRY(read_small(options, "mtu", net.mtu.emplace(), 0));
  VMMD_TRY(read_small(options, "num_queues", net.num_queues, 2));
  VMMD_TRY(read_small(options, "queue_size", net.queue_size, 1));
  VMMD_TRY(read_descriptors(options, net.fds));
  VMMD_TRY(options.read_toggle("vhost_user", net.vhost_user));
  VMMD_TRY(options.read_name("vhost_mode", net.vhost_mode));
  VMMD_TRY(options.read_toggle("offload_tso", net.offload_tso));
  VMMD_TRY(options.read_toggle("offload_ufo", net.offload_ufo));
  VMMD_TRY(options.read_toggle("offload_csum", net.offload_csum));
  VMMD_TRY(read_rate_limits(options, "--net", net.rate_limiter_config));
  // As Cloud Hypervisor's users write it: the descriptors say how many pairs there are.
  if (!net.fds.empty() && !options.has("num_queues")) {
    net.num_queues = static_cast<std::uint16_t>(2 * net.fds.size());
  }
  return net;
}

}  // namespace vmmd::api
