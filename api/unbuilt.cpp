#include "api/unbuilt.h"

#include <array>
#include <string>
#include <string_view>

#include "api/device_visitor.h"

namespace vmmd::api {

namespace {

struct Unbuilt {
  std::string_view pointer;
  std::string_view feature;
  bool (*asked_for)(const VmConfig& config);
};

// What is built is taken out of here, and nowhere else.
constexpr auto kUnbuilt = std::to_array<Unbuilt>({
    {"/cpus/max_vcpus", "adding vCPUs later (more than boot_vcpus)",
     [](const VmConfig& c) { return c.cpus.max_vcpus > c.cpus.boot_vcpus; }},
    {"/cpus/kvm_hyperv", "Hyper-V enlightenments", [](const VmConfig& c) { return c.cpus.kvm_hyperv; }},
    {"/cpus/features/amx", "AMX", [](const VmConfig& c) { return c.cpus.features.amx; }},
    // "Vm" is the default of Cloud Hypervisor, so it comes from clients that never thought of it.
    {"/cpus/core_scheduling", "core scheduling",
     [](const VmConfig& c) { return c.cpus.core_scheduling == CoreSchedulingMode::Vcpu; }},
    {"/cpus/profile", "CPU profiles other than \"Host\"",
     [](const VmConfig& c) { return c.cpus.profile != "Host"; }},
    {"/memory/hotplug_size", "memory hotplug",
     [](const VmConfig& c) { return c.memory.hotplug_size.value_or(0) != 0; }},
    {"/memory/hotplugged_size", "memory hotplug",
     [](const VmConfig& c) { return c.memory.hotplugged_size.value_or(0) != 0; }},
    {"/memory/zones", "memory zones", [](const VmConfig& c) { return !c.memory.zones.empty(); }},
    {"/payload/firmware", "firmware boot", [](const VmConfig& c) { return c.payload.firmware.has_value(); }},
    {"/payload/igvm", "IGVM", [](const VmConfig& c) { return c.payload.igvm.has_value(); }},
    {"/payload/host_data", "confidential guests",
     [](const VmConfig& c) { return c.payload.host_data.has_value(); }},
    {"/payload/fw_cfg_config", "fw_cfg",
     [](const VmConfig& c) { return c.payload.fw_cfg_config.has_value(); }},
    {"/fs", "virtio-fs", [](const VmConfig& c) { return !c.fs.empty(); }},
    {"/generic_vhost_user", "vhost-user", [](const VmConfig& c) { return !c.generic_vhost_user.empty(); }},
    {"/devices", "VFIO", [](const VmConfig& c) { return !c.devices.empty(); }},
    {"/user_devices", "vfio-user", [](const VmConfig& c) { return !c.user_devices.empty(); }},
    {"/vdpa", "vDPA", [](const VmConfig& c) { return !c.vdpa.empty(); }},
    {"/numa", "NUMA", [](const VmConfig& c) { return !c.numa.empty(); }},
    {"/iommu", "virtio-iommu", [](const VmConfig& c) { return c.iommu; }},
    {"/rtc", "virtio-rtc", [](const VmConfig& c) { return c.rtc.has_value(); }},
    {"/pvpanic", "pvpanic", [](const VmConfig& c) { return c.pvpanic; }},
    {"/pci_segments", "PCI segments", [](const VmConfig& c) { return !c.pci_segments.empty(); }},
    {"/platform/num_pci_segments", "PCI segments",
     [](const VmConfig& c) { return c.platform.num_pci_segments != 1; }},
    {"/platform/iommu_segments", "virtio-iommu",
     [](const VmConfig& c) { return !c.platform.iommu_segments.empty(); }},
    {"/platform/system_serial_number", "SMBIOS",
     [](const VmConfig& c) { return c.platform.system_serial_number.has_value(); }},
    {"/platform/serial_number", "SMBIOS",
     [](const VmConfig& c) { return c.platform.serial_number.has_value(); }},
    {"/platform/system_uuid", "SMBIOS", [](const VmConfig& c) { return c.platform.system_uuid.has_value(); }},
    {"/platform/uuid", "SMBIOS", [](const VmConfig& c) { return c.platform.uuid.has_value(); }},
    {"/platform/oem_strings", "SMBIOS", [](const VmConfig& c) { return !c.platform.oem_strings.empty(); }},
    {"/platform/system_manufacturer", "SMBIOS",
     [](const VmConfig& c) { return c.platform.system_manufacturer.has_value(); }},
    {"/platform/system_product_name", "SMBIOS",
     [](const VmConfig& c) { return c.platform.system_product_name.has_value(); }},
    {"/platform/system_version", "SMBIOS",
     [](const VmConfig& c) { return c.platform.system_version.has_value(); }},
    {"/platform/system_family", "SMBIOS",
     [](const VmConfig& c) { return c.platform.system_family.has_value(); }},
    {"/platform/system_sku_number", "SMBIOS",
     [](const VmConfig& c) { return c.platform.system_sku_number.has_value(); }},
    {"/platform/chassis_asset_tag", "SMBIOS",
     [](const VmConfig& c) { return c.platform.chassis_asset_tag.has_value(); }},
    {"/platform/tdx", "TDX", [](const VmConfig& c) { return c.platform.tdx; }},
    {"/platform/sev_snp", "SEV-SNP", [](const VmConfig& c) { return c.platform.sev_snp; }},
    {"/platform/iommufd", "iommufd", [](const VmConfig& c) { return c.platform.iommufd; }},
    {"/platform/iommufd_fd", "iommufd", [](const VmConfig& c) { return c.platform.iommufd_fd.has_value(); }},
    {"/tpm", "TPM", [](const VmConfig& c) { return c.tpm.has_value(); }},
    {"/landlock_enable", "landlock", [](const VmConfig& c) { return c.landlock_enable; }},
    // Without landlock_enable the rules do nothing there either, but who writes them counts on them.
    {"/landlock_rules", "landlock", [](const VmConfig& c) { return !c.landlock_rules.empty(); }},
    {"/gdb", "the GDB stub", [](const VmConfig& c) { return c.gdb; }},
    {"/ivshmem", "ivshmem", [](const VmConfig& c) { return c.ivshmem.has_value(); }},
});

}  // namespace

void find_unbuilt(const VmConfig& config, Findings& findings) {
  for (const Unbuilt& unbuilt : kUnbuilt) {
    if (unbuilt.asked_for(config)) {
      findings.add(ErrorCode::NotSupported, unbuilt.pointer, "{} is not built yet", unbuilt.feature);
    }
  }
  DeviceVisitor visitor([&findings](const std::string& device, const PciDeviceConfig& pci) {
    if (pci.iommu) findings.add(ErrorCode::NotSupported, device + "/iommu", "virtio-iommu is not built yet");
    if (pci.pci_segment != 0)
      findings.add(ErrorCode::NotSupported, device + "/pci_segment", "PCI segments are not built yet");
  });
  fields(visitor, config);
}

}  // namespace vmmd::api
