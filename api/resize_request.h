#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace vmmd::api {

/// PUT vm.resize, as far as it is built. Cloud Hypervisor's desired_vcpus and desired_ram are refused.
struct ResizeRequest {
  std::optional<std::uint64_t> desired_balloon;  // bytes
};

/// PUT vm.resize-disk.
struct ResizeDiskRequest {
  std::string id;
  std::uint64_t desired_size = 0;  // bytes
};

}  // namespace vmmd::api
