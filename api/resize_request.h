#pragma once

#include <cstdint>
#include <optional>

namespace vmmd::api {

/// PUT vm.resize, as far as it is built. Cloud Hypervisor's desired_vcpus and desired_ram are refused.
struct ResizeRequest {
  std::optional<std::uint64_t> desired_balloon;  // bytes
};

}  // namespace vmmd::api
