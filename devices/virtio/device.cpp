#include "devices/virtio/device.h"

namespace vmmd::devices {

std::uint64_t read_config_bytes(std::span<const std::byte> config, std::uint64_t offset, unsigned width) {
  std::uint64_t value = 0;
  for (unsigned i = 0; i < width; ++i) {
    if (offset >= config.size() || i >= config.size() - offset) break;
    value |= std::to_integer<std::uint64_t>(config[offset + i]) << (8 * i);
  }
  return value;
}

}  // namespace vmmd::devices
