#pragma once

#include "api/config.h"
#include "api/config_enums.h"
#include "api/field_rule.h"

namespace vmmd::api {

// The field tables of VmConfig (see field_rule.h), in the order in which they are written.

template <class V>
void fields(V& v, ConstOr<CpuTopology> auto& c) {
  v("threads_per_core", c.threads_per_core, {.required = true, .min = 1, .max = 255});
  v("cores_per_die", c.cores_per_die, {.required = true, .min = 1, .max = 255});
  v("dies_per_package", c.dies_per_package, {.required = true, .min = 1, .max = 255});
  v("packages", c.packages, {.required = true, .min = 1, .max = 255});
}

template <class V>
void fields(V& v, ConstOr<CpuAffinity> auto& c) {
  v("vcpu", c.vcpu, {.required = true, .max = 254});
  v("host_cpus", c.host_cpus, {.required = true, .max = 65535});
}

template <class V>
void fields(V& v, ConstOr<CpuFeatures> auto& c) {
  v("amx", c.amx);
}

template <class V>
void fields(V& v, ConstOr<CpusConfig> auto& c) {
  v("boot_vcpus", c.boot_vcpus, {.min = 1, .max = 255});
  v("max_vcpus", c.max_vcpus, {.min = 1, .max = 255});
  v("topology", c.topology);
  v("kvm_hyperv", c.kvm_hyperv);
  v("max_phys_bits", c.max_phys_bits, {.max = 255});
  v("affinity", c.affinity);
  v("features", c.features);
  v("nested", c.nested);
  v("core_scheduling", c.core_scheduling);
  v("profile", c.profile);
  if constexpr (requires { v.given("max_vcpus"); }) {
    if (!v.given("max_vcpus")) c.max_vcpus = c.boot_vcpus;
    if (!v.given("boot_vcpus")) c.boot_vcpus = c.max_vcpus;
  }
}

template <class V>
void fields(V& v, ConstOr<MemoryZoneConfig> auto& c) {
  v("id", c.id, kRequired);
  v("size", c.size, kRequired);
  v("file", c.file);
  v("mergeable", c.mergeable);
  v("shared", c.shared);
  v("hugepages", c.hugepages);
  v("hugepage_size", c.hugepage_size);
  v("host_numa_node", c.host_numa_node);
  v("hotplug_size", c.hotplug_size);
  v("hotplugged_size", c.hotplugged_size);
  v("prefault", c.prefault);
  v("reserve", c.reserve);
}

template <class V>
void fields(V& v, ConstOr<MemoryConfig> auto& c) {
  v("size", c.size, kRequired);
  v("hotplug_size", c.hotplug_size);
  v("hotplugged_size", c.hotplugged_size);
  v("mergeable", c.mergeable);
  v("hotplug_method", c.hotplug_method);
  v("shared", c.shared);
  v("hugepages", c.hugepages);
  v("hugepage_size", c.hugepage_size);
  v("prefault", c.prefault);
  v("reserve", c.reserve);
  v("thp", c.thp);
  v("zones", c.zones);
  v("file", c.file);
}

template <class V>
void fields(V& v, ConstOr<FwCfgItem> auto& c) {
  v("name", c.name, kRequired);
  v("file", c.file);
  v("string", c.string);
}

template <class V>
void fields(V& v, ConstOr<FwCfgItemList> auto& c) {
  v("item_list", c.item_list);
}

template <class V>
void fields(V& v, ConstOr<FwCfgConfig> auto& c) {
  v("e820", c.e820);
  v("kernel", c.kernel);
  v("cmdline", c.cmdline);
  v("initramfs", c.initramfs);
  v("acpi_tables", c.acpi_tables);
  v("items", c.items);
}

template <class V>
void fields(V& v, ConstOr<PayloadConfig> auto& c) {
  v("firmware", c.firmware);
  v("kernel", c.kernel);
  v("cmdline", c.cmdline);
  v("initramfs", c.initramfs);
  v("igvm", c.igvm);
  v("host_data", c.host_data);
  v("fw_cfg_config", c.fw_cfg_config);
}

template <class V>
void fields(V& v, ConstOr<PlatformConfig> auto& c) {
  v("num_pci_segments", c.num_pci_segments, {.min = 1, .max = 96});
  v("iommu_segments", c.iommu_segments);
  v("iommu_address_width_bits", c.iommu_address_width_bits, {.max = 64});
  v("system_serial_number", c.system_serial_number);
  v("serial_number", c.serial_number);
  v("system_uuid", c.system_uuid);
  v("uuid", c.uuid);
  v("oem_strings", c.oem_strings);
  v("system_manufacturer", c.system_manufacturer);
  v("system_product_name", c.system_product_name);
  v("system_version", c.system_version);
  v("system_family", c.system_family);
  v("system_sku_number", c.system_sku_number);
  v("chassis_asset_tag", c.chassis_asset_tag);
  v("tdx", c.tdx);
  v("sev_snp", c.sev_snp);
  v("iommufd", c.iommufd);
  v("iommufd_fd", c.iommufd_fd);
  v("vfio_p2p_dma", c.vfio_p2p_dma);
  v("pc", c.pc);
}

template <class V>
void fields(V& v, ConstOr<NumaDistance> auto& c) {
  v("destination", c.destination, kRequired);
  v("distance", c.distance, kRequired);
}

template <class V>
void fields(V& v, ConstOr<NumaConfig> auto& c) {
  v("guest_numa_id", c.guest_numa_id, kRequired);
  v("cpus", c.cpus);
  v("distances", c.distances);
  v("memory_zones", c.memory_zones);
  v("pci_segments", c.pci_segments);
  v("device_id", c.device_id);
}

template <class V>
void fields(V& v, ConstOr<TpmConfig> auto& c) {
  v("socket", c.socket, kRequired);
}

template <class V>
void fields(V& v, ConstOr<LandlockConfig> auto& c) {
  v("path", c.path, kRequired);
  v("access", c.access, kRequired);
}

template <class V>
void fields(V& v, ConstOr<VmConfig> auto& c) {
  v("cpus", c.cpus);
  v("memory", c.memory);
  v("payload", c.payload, kRequired);
  v("rate_limit_groups", c.rate_limit_groups);
  v("disks", c.disks);
  v("net", c.net);
  v("rng", c.rng);
  v("balloon", c.balloon);
  v("fs", c.fs);
  v("generic_vhost_user", c.generic_vhost_user);
  v("pmem", c.pmem);
  v("serial", c.serial);
  v("console", c.console);
  v("debug_console", c.debug_console);
  v("devices", c.devices);
  v("user_devices", c.user_devices);
  v("vdpa", c.vdpa);
  v("vsock", c.vsock);
  v("numa", c.numa);
  v("iommu", c.iommu);
  v("watchdog", c.watchdog);
  v("rtc", c.rtc);
  v("pvpanic", c.pvpanic);
  v("pci_segments", c.pci_segments);
  v("platform", c.platform, {.nullable = true});
  v("tpm", c.tpm);
  v("landlock_enable", c.landlock_enable);
  v("landlock_rules", c.landlock_rules);
  v("gdb", c.gdb);
  v("ivshmem", c.ivshmem);
}

}  // namespace vmmd::api
