#pragma once

#include <string>

namespace vmmd::api::samples {

// Every field that VmConfig has, each with a value of its own that is not the default.
inline const std::string kFull = R"({
  "cpus": {
    "boot_vcpus": 6, "max_vcpus": 12,
    "topology": {"threads_per_core": 2, "cores_per_die": 3, "dies_per_package": 1, "packages": 2},
    "kvm_hyperv": true, "max_phys_bits": 44,
    "affinity": [{"vcpu": 4, "host_cpus": [1, 0]}, {"vcpu": 5, "host_cpus": [65535]}],
    "features": {"amx": true}, "nested": false, "core_scheduling": "Vcpu", "profile": "Skylake"
  },
  "memory": {
    "size": 18446744073709547520, "hotplug_size": 4097, "hotplugged_size": 4098, "mergeable": true,
    "hotplug_method": "VirtioMem", "shared": true, "hugepages": true, "hugepage_size": 2097152,
    "prefault": true, "reserve": true, "thp": false,
    "zones": [{"id": "z0", "size": 8193, "file": "/zone", "mergeable": true, "shared": true, "hugepages": true,
               "hugepage_size": 8194, "host_numa_node": 3, "hotplug_size": 8195, "hotplugged_size": 8196,
               "prefault": true, "reserve": true}],
    "file": "/ram"
  },
  "payload": {
    "firmware": "/fw", "kernel": "/k", "cmdline": "console=ttyS0 \"quoted\"", "initramfs": "/i", "igvm": "/igvm",
    "host_data": "68657861",
    "fw_cfg_config": {"e820": false, "kernel": false, "cmdline": false, "initramfs": false, "acpi_tables": false,
                      "items": {"item_list": [{"name": "opt/a", "file": "/a", "string": "b"}]}}
  },
  "rate_limit_groups": [{"id": "g", "rate_limiter_config":
    {"bandwidth": {"size": 1001, "one_time_burst": 1002, "refill_time": 1003},
     "ops": {"size": 1004, "one_time_burst": 1005, "refill_time": 1006}}}],
  "disks": [{
    "path": "/d", "readonly": true, "direct": true, "num_queues": 3, "queue_size": 256, "vhost_user": true,
    "vhost_socket": "/vs", "rate_limiter_config": {"ops": {"size": 1007, "refill_time": 1008}},
    "rate_limit_group": "g", "serial": "S1", "queue_affinity": [{"queue_index": 2, "host_cpus": [1]}],
    "backing_files": true, "sparse": false, "image_type": "Raw", "lock_granularity": "Full", "overlay": "memory",
    "overlay_limit": 4097, "on_enospc": "Pause",
    "id": "disk0", "iommu": true, "pci_segment": 1, "pci_device_id": 7
  }],
  "net": [{
    "tap": "tap0", "ip": "10.0.0.1", "mask": "255.0.0.0", "mac": "02:00:00:00:00:01", "host_mac": "02:00:00:00:00:02",
    "mtu": 1400, "num_queues": 4, "queue_size": 512, "vhost_user": true, "vhost_socket": "/nvs",
    "vhost_mode": "Server", "fds": [-1, 7], "passt": "/np", "rate_limiter_config": {"bandwidth": {"size": 1009, "refill_time": 1010}},
    "offload_tso": false, "offload_ufo": false, "offload_csum": false,
    "id": "net0", "iommu": true, "pci_segment": 2, "pci_device_id": 8
  }],
  "rng": {"src": "/dev/random", "id": "rng0", "iommu": true, "pci_segment": 3, "pci_device_id": 9},
  "balloon": {"size": 4099, "deflate_on_oom": true, "free_page_reporting": true,
              "id": "balloon0", "iommu": true, "pci_segment": 4, "pci_device_id": 10},
  "fs": [{"tag": "t", "socket": "/fs", "num_queues": 2, "queue_size": 64,
          "id": "fs0", "iommu": true, "pci_segment": 5, "pci_device_id": 11}],
  "generic_vhost_user": [{"socket": "/gvu", "queue_sizes": [16, 32], "device_type": 26,
                          "id": "gvu0", "iommu": true, "pci_segment": 6, "pci_device_id": 12}],
  "pmem": [{"file": "/p", "size": 4100, "discard_writes": true,
            "id": "pmem0", "iommu": true, "pci_segment": 7, "pci_device_id": 13}],
  "serial": {"mode": "File", "file": "/serial", "socket": "/ss"},
  "console": {"mode": "Socket", "file": "/console", "socket": "/cs",
              "id": "con0", "iommu": true, "pci_segment": 8, "pci_device_id": 14},
  "debug_console": {"mode": "Tty", "file": "/debug", "iobase": 1026},
  "devices": [{"path": "/sys/d", "x_nv_gpudirect_clique": 2, "x_exclude_mmap_bars": [1, 3],
               "id": "vfio0", "iommu": true, "pci_segment": 9, "pci_device_id": 15}],
  "user_devices": [{"socket": "/ud", "id": "ud0", "iommu": true, "pci_segment": 10, "pci_device_id": 16}],
  "vdpa": [{"path": "/vdpa", "num_queues": 5, "id": "vdpa0", "iommu": true, "pci_segment": 11, "pci_device_id": 17}],
  "vsock": {"cid": 42, "socket": "/vsock", "id": "vsock0", "iommu": true, "pci_segment": 12, "pci_device_id": 18},
  "numa": [{"guest_numa_id": 1, "cpus": [0, 2], "distances": [{"destination": 3, "distance": 20}],
            "memory_zones": ["z0"], "pci_segments": [4], "device_id": "vfio0"}],
  "iommu": true, "watchdog": true,
  "rtc": {"id": "rtc0", "iommu": true, "pci_segment": 13, "pci_device_id": 19},
  "pvpanic": true,
  "pci_segments": [{"pci_segment": 14, "mmio32_aperture_weight": 2, "mmio64_aperture_weight": 3}],
  "platform": {
    "num_pci_segments": 15, "iommu_segments": [1, 2], "iommu_address_width_bits": 48,
    "system_serial_number": "sn", "serial_number": "osn", "system_uuid": "u", "uuid": "ou",
    "oem_strings": ["o1", "o2"], "system_manufacturer": "m", "system_product_name": "pn", "system_version": "v",
    "system_family": "f", "system_sku_number": "sku", "chassis_asset_tag": "tag", "tdx": true, "sev_snp": true,
    "iommufd": true, "iommufd_fd": 21, "vfio_p2p_dma": false, "pc": true
  },
  "tpm": {"socket": "/tpm"},
  "landlock_enable": true, "landlock_rules": [{"path": "/l", "access": "rw"}],
  "gdb": true,
  "ivshmem": {"path": "/shm", "size": 4101, "id": "shm0", "iommu": true, "pci_segment": 16, "pci_device_id": 20}
})";

}  // namespace vmmd::api::samples
