#include <cstdint>
#include <string>
#include <utility>

#include "api/config_enums.h"
#include "api/device_option.h"
#include "api/options.h"

namespace vmmd::api {

namespace {

Status read_queue_affinity(const OptionText& options, std::vector<VirtQueueAffinity>& out) {
  const auto text = options.value("queue_affinity");
  if (!text) return {};
  auto affinity = parse_affinity_list(*text, std::numeric_limits<std::uint16_t>::max(), "QUEUE");
  if (!affinity) return options.blame("queue_affinity", std::move(affinity).error());
  for (auto& [queue, cpus] : *affinity) out.push_back({static_cast<std::uint16_t>(queue), std::move(cpus)});
  return {};
}

}  // namespace

Result<DiskConfig> parse_disk_option(std::string_view text) {
  VMMD_ASSIGN(const auto options, OptionText::parse("--disk", text,
                                                    {"path",
                                                     "readonly",
                                                     "direct",
                                                     "num_queues",
                                                     "queue_size",
                                                     "vhost_user",
                                                     "socket",
                                                     "rate_limit_group",
                                                     "serial",
                                                     "queue_affinity",
                                                     "backing_files",
                                                     "sparse",
                                                     "image_type",
                                                     "lock_granularity",
                                                     "overlay",
                                                     "overlay_limit",
                                                     "on_enospc",
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
  DiskConfig disk;
  options.read_string("path", disk.path);
  options.read_string("socket", disk.vhost_socket);
  options.read_string("rate_limit_group", disk.rate_limit_group);
  options.read_string("serial", disk.serial);
  options.read_string("overlay", disk.overlay);
  VMMD_TRY(options.read_size("overlay_limit", disk.overlay_limit));
  VMMD_TRY(options.read_toggle("readonly", disk.readonly));
  VMMD_TRY(options.read_toggle("direct", disk.direct));
  VMMD_TRY(options.read_toggle("vhost_user", disk.vhost_user));
  VMMD_TRY(options.read_toggle("backing_files", disk.backing_files));
  VMMD_TRY(options.read_toggle("sparse", disk.sparse));
  VMMD_TRY(read_small(options, "num_queues", disk.num_queues, 1));
  VMMD_TRY(read_small(options, "queue_size", disk.queue_size, 1));
  VMMD_TRY(read_queue_affinity(options, disk.queue_affinity));
  VMMD_TRY(options.read_name("image_type", disk.image_type));
  VMMD_TRY(options.read_name("on_enospc", disk.on_enospc));
  if (options.value("lock_granularity") == "byte-range") {  // Cloud Hypervisor's spelling here
    disk.lock_granularity = LockGranularity::ByteRange;
  } else {
    VMMD_TRY(options.read_name("lock_granularity", disk.lock_granularity));
  }
  VMMD_TRY(read_rate_limits(options, "--disk", disk.rate_limiter_config));
  VMMD_TRY(read_pci(options, disk.pci));
  return disk;
}

Result<RateLimitGroupConfig> parse_rate_limit_group_option(std::string_view text) {
  VMMD_ASSIGN(const auto options, OptionText::parse("--rate-limit-group", text,
                                                    {"id", "bw_size", "bw_one_time_burst", "bw_refill_time",
                                                     "ops_size", "ops_one_time_burst", "ops_refill_time"}));
  std::optional<std::string> id;
  options.read_string("id", id);
  if (!id) return fail(ErrorCode::BadRequest, "--rate-limit-group needs id=");
  std::optional<RateLimiterConfig> limits;
  VMMD_TRY(read_rate_limits(options, "--rate-limit-group", limits));
  return RateLimitGroupConfig{*id, limits.value_or(RateLimiterConfig())};
}

}  // namespace vmmd::api
