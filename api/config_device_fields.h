#pragma once

#include "api/config.h"
#include "api/config_enums.h"
#include "api/field_rule.h"

namespace vmmd::api {

// The field tables of everything that is a device (see field_rule.h).

/// Members of the device's own object.
template <class V>
void fields(V& v, ConstOr<PciDeviceConfig> auto& c) {
  v("id", c.id);
  v("iommu", c.iommu);
  v("pci_segment", c.pci_segment);
  v("pci_device_id", c.pci_device_id, {.max = 31});
}

template <class V>
void fields(V& v, ConstOr<PciSegmentConfig> auto& c) {
  v("pci_segment", c.pci_segment, kRequired);
  v("mmio32_aperture_weight", c.mmio32_aperture_weight);
  v("mmio64_aperture_weight", c.mmio64_aperture_weight);
}

template <class V>
void fields(V& v, ConstOr<TokenBucket> auto& c) {
  v("size", c.size, kRequired);
  v("one_time_burst", c.one_time_burst);
  v("refill_time", c.refill_time, kRequired);
}

template <class V>
void fields(V& v, ConstOr<RateLimiterConfig> auto& c) {
  v("bandwidth", c.bandwidth);
  v("ops", c.ops);
}

template <class V>
void fields(V& v, ConstOr<RateLimitGroupConfig> auto& c) {
  v("id", c.id, kRequired);
  v("rate_limiter_config", c.rate_limiter_config, kRequired);
}

template <class V>
void fields(V& v, ConstOr<VirtQueueAffinity> auto& c) {
  v("queue_index", c.queue_index, kRequired);
  v("host_cpus", c.host_cpus, {.required = true, .max = 65535});
}

template <class V>
void fields(V& v, ConstOr<DiskConfig> auto& c) {
  v("path", c.path);
  v("readonly", c.readonly);
  v("direct", c.direct);
  v("num_queues", c.num_queues, {.min = 1});
  v("queue_size", c.queue_size, {.max = 32768});
  v("vhost_user", c.vhost_user);
  v("vhost_socket", c.vhost_socket);
  v("rate_limiter_config", c.rate_limiter_config);
  v("rate_limit_group", c.rate_limit_group);
  v("serial", c.serial);
  v("queue_affinity", c.queue_affinity);
  v("backing_files", c.backing_files);
  v("sparse", c.sparse);
  v("image_type", c.image_type);
  v("lock_granularity", c.lock_granularity);
  v("overlay", c.overlay);
  v("overlay_limit", c.overlay_limit);
  v("on_enospc", c.on_enospc);
  fields(v, c.pci);
}

template <class V>
void fields(V& v, ConstOr<NetConfig> auto& c) {
  v("tap", c.tap);
  v("ip", c.ip);
  v("mask", c.mask);
  v("mac", c.mac);
  v("host_mac", c.host_mac);
  v("mtu", c.mtu);
  v("num_queues", c.num_queues, {.min = 2});
  v("queue_size", c.queue_size, {.max = 32768});
  v("vhost_user", c.vhost_user);
  v("vhost_socket", c.vhost_socket);
  v("vhost_mode", c.vhost_mode);
  v("fds", c.fds);
  v("passt", c.passt);
  v("rate_limiter_config", c.rate_limiter_config);
  v("offload_tso", c.offload_tso);
  v("offload_ufo", c.offload_ufo);
  v("offload_csum", c.offload_csum);
  fields(v, c.pci);
}

template <class V>
void fields(V& v, ConstOr<RngConfig> auto& c) {
  v("src", c.src, kRequired);
  fields(v, c.pci);
}

template <class V>
void fields(V& v, ConstOr<RtcConfig> auto& c) {
  fields(v, c.pci);
}

template <class V>
void fields(V& v, ConstOr<BalloonConfig> auto& c) {
  v("size", c.size, kRequired);
  v("deflate_on_oom", c.deflate_on_oom);
  v("free_page_reporting", c.free_page_reporting);
  fields(v, c.pci);
}

template <class V>
void fields(V& v, ConstOr<FsConfig> auto& c) {
  v("tag", c.tag, kRequired);
  v("socket", c.socket, kRequired);
  v("num_queues", c.num_queues, {.min = 1});
  v("queue_size", c.queue_size, {.max = 32768});
  fields(v, c.pci);
}

template <class V>
void fields(V& v, ConstOr<GenericVhostUserConfig> auto& c) {
  v("socket", c.socket, kRequired);
  v("queue_sizes", c.queue_sizes, kRequired);
  v("device_type", c.device_type, kRequired);
  fields(v, c.pci);
}

template <class V>
void fields(V& v, ConstOr<PmemConfig> auto& c) {
  v("file", c.file, kRequired);
  v("size", c.size);
  v("discard_writes", c.discard_writes);
  fields(v, c.pci);
}

template <class V>
void fields(V& v, ConstOr<VsockConfig> auto& c) {
  // 0 to 2 and the all-ones CID are the host's (virtio 1.2, section 5.10.4).
  v("cid", c.cid, {.required = true, .min = 3, .max = 0xFFFF'FFFE});
  v("socket", c.socket, kRequired);
  fields(v, c.pci);
}

template <class V>
void fields(V& v, ConstOr<VdpaConfig> auto& c) {
  v("path", c.path, kRequired);
  v("num_queues", c.num_queues, {.min = 1});
  fields(v, c.pci);
}

template <class V>
void fields(V& v, ConstOr<DeviceConfig> auto& c) {
  v("path", c.path);
  v("x_nv_gpudirect_clique", c.x_nv_gpudirect_clique);
  v("x_exclude_mmap_bars", c.x_exclude_mmap_bars);
  fields(v, c.pci);
}

template <class V>
void fields(V& v, ConstOr<UserDeviceConfig> auto& c) {
  v("socket", c.socket, kRequired);
  fields(v, c.pci);
}

template <class V>
void fields(V& v, ConstOr<IvshmemConfig> auto& c) {
  v("path", c.path, kRequired);
  v("size", c.size, kRequired);
  fields(v, c.pci);
}

template <class V>
void fields(V& v, ConstOr<SerialConfig> auto& c) {
  v("mode", c.mode, kRequired);
  v("file", c.file);
  v("socket", c.socket);
}

template <class V>
void fields(V& v, ConstOr<ConsoleConfig> auto& c) {
  v("mode", c.mode, kRequired);
  v("file", c.file);
  v("socket", c.socket);
  fields(v, c.pci);
}

template <class V>
void fields(V& v, ConstOr<DebugConsoleConfig> auto& c) {
  v("mode", c.mode, kRequired);
  v("file", c.file);
  v("iobase", c.iobase, {.nullable = true});
}

}  // namespace vmmd::api
