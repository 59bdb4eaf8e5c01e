#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <span>

#include "devices/virtio/block.h"
#include "devices/virtio/block_protocol.h"

// What a driver is told of a disk before it asks for anything.

namespace vmmd::devices {

using namespace block_protocol;

namespace {

template <class T>
void put(std::span<std::byte> bytes, std::size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}

}  // namespace

std::uint64_t VirtioBlock::features() const {
  std::uint64_t features = kSizeMax | kSegMax | kBlkSize | kFlush | kTopology;
  features |= disk_.readonly() ? kReadOnly : kWriteZeroes;
  if (!disk_.readonly() && config_.discard) features |= kDiscard;
  if (config_.queues > 1) features |= kMultiQueue;
  return features;
}

std::vector<std::uint16_t> VirtioBlock::queue_sizes() const {
  return std::vector<std::uint16_t>(config_.queues, config_.queue_size);
}

// struct virtio_blk_config (5.2.4)
std::uint64_t VirtioBlock::read_config(std::uint64_t offset, unsigned width) {
  std::array<std::byte, 60> bytes{};
  {
    const std::lock_guard lock(mutex_);
    put(bytes, 0, state_.sectors);
  }
  put(bytes, 8, kMaxSegment);
  // Two descriptors of a chain are header and answer.
  put(bytes, 12, std::uint32_t{std::max<std::uint16_t>(config_.queue_size, 3)} - 2);
  put(bytes, 20, std::uint32_t{kSector});
  put(bytes, 24, std::uint8_t{3});  // physical blocks of 8 sectors
  put(bytes, 26, std::uint16_t{8});
  put(bytes, 34, config_.queues);
  if (!disk_.readonly()) {
    if (config_.discard) {
      put(bytes, 36, kMaxRangeSectors);
      put(bytes, 40, std::uint32_t{kMaxRanges});
      put(bytes, 44, std::uint32_t{8});
    }
    put(bytes, 48, kMaxRangeSectors);
    put(bytes, 52, std::uint32_t{kMaxRanges});
    put(bytes, 56, std::uint8_t{config_.discard});
  }
  return read_config_bytes(bytes, offset, width);
}

}  // namespace vmmd::devices
