#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "api/config_json.h"
#include "api/unbuilt.h"
#include "tests/unit/api/config_samples.h"

using namespace vmmd;
using namespace vmmd::api;

namespace {

std::vector<std::string> unbuilt_in(const std::string& json) {
  const auto config = parse_vm_config(json);
  if (!config) return {config.error().to_string()};
  Findings findings;
  find_unbuilt(*config, findings);
  const Status status = std::move(findings).status();
  if (status) return {};
  CHECK(status.error().code == ErrorCode::NotSupported);
  return status.error().messages;
}

std::vector<std::string> unbuilt_fields(const std::string& fields) {
  return unbuilt_in(R"({"payload": {"kernel": "/k"}, )" + fields + "}");
}

using Messages = std::vector<std::string>;

}  // namespace

TEST_CASE("fields that ask for nothing are accepted, as Cloud Hypervisor's clients send them") {
  CHECK(unbuilt_fields(R"("disks": [], "net": null, "iommu": false, "watchdog": false, "pvpanic": false,
      "console": {"mode": "Null"}, "rng": {"src": "/dev/urandom"}, "landlock_enable": false,
      "cpus": {"boot_vcpus": 1, "max_vcpus": 1, "nested": true, "core_scheduling": "Vm", "profile": "Host",
               "features": {"amx": false}, "kvm_hyperv": false},
      "memory": {"size": 4096, "hotplug_size": 0, "hotplug_method": "VirtioMem", "zones": []},
      "platform": {"num_pci_segments": 1, "iommu_address_width_bits": 64, "tdx": false, "vfio_p2p_dma": true})") ==
        Messages{});
}

TEST_CASE("a feature that is not built is named") {
  CHECK(unbuilt_fields(R"("cpus": {"boot_vcpus": 1, "max_vcpus": 2})") ==
        Messages{"/cpus/max_vcpus: adding vCPUs later (more than boot_vcpus) is not built yet"});
}

TEST_CASE("every feature that is not built is found in a configuration that asks for all of them") {
  const auto messages = unbuilt_in(samples::kFull);
  std::vector<std::string> pointers;
  std::size_t of_devices = 0;  // "/net/0/iommu"
  for (const std::string& message : messages) {
    const std::string pointer = message.substr(0, message.find(": "));
    const bool of_device = pointer != "/iommu" && pointer.ends_with("/iommu");
    if (of_device || pointer.ends_with("/pci_segment")) {
      ++of_devices;
    } else {
      pointers.push_back(pointer);
    }
  }
  CHECK(of_devices == 28);  // 14 devices
  CHECK(pointers == Messages{"/cpus/max_vcpus",
                             "/cpus/kvm_hyperv",
                             "/cpus/features/amx",
                             "/cpus/core_scheduling",
                             "/cpus/profile",
                             "/memory/hotplug_size",
                             "/memory/hotplugged_size",
                             "/memory/zones",
                             "/payload/firmware",
                             "/payload/igvm",
                             "/payload/host_data",
                             "/payload/fw_cfg_config",
                             "/fs",
                             "/generic_vhost_user",
                             "/devices",
                             "/user_devices",
                             "/vdpa",
                             "/numa",
                             "/iommu",
                             "/rtc",
                             "/pvpanic",
                             "/pci_segments",
                             "/platform/num_pci_segments",
                             "/platform/iommu_segments",
                             "/platform/system_serial_number",
                             "/platform/serial_number",
                             "/platform/system_uuid",
                             "/platform/uuid",
                             "/platform/oem_strings",
                             "/platform/system_manufacturer",
                             "/platform/system_product_name",
                             "/platform/system_version",
                             "/platform/system_family",
                             "/platform/system_sku_number",
                             "/platform/chassis_asset_tag",
                             "/platform/tdx",
                             "/platform/sev_snp",
                             "/platform/iommufd",
                             "/platform/iommufd_fd",
                             "/tpm",
                             "/landlock_enable",
                             "/landlock_rules",
                             "/gdb",
                             "/ivshmem"});
}

TEST_CASE(
    "a device behind an IOMMU, or on another segment, is refused rather than put elsewhere in silence") {
  CHECK(
      unbuilt_fields(
          R"("disks": [{"path": "/d"}, {"path": "/e", "iommu": true}], "rng": {"src": "/r", "pci_segment": 3})") ==
      Messages{"/disks/1/iommu: virtio-iommu is not built yet",
               "/rng/pci_segment: PCI segments are not built yet"});
}
