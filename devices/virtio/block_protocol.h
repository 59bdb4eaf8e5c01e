#pragma once

#include <cstddef>
#include <cstdint>

/// virtio 1.2, 5.2: the block device.
namespace vmmd::devices::block_protocol {

// Feature bits (5.2.3).
inline constexpr std::uint64_t kSizeMax = 1ULL << 1;
inline constexpr std::uint64_t kSegMax = 1ULL << 2;
inline constexpr std::uint64_t kReadOnly = 1ULL << 5;
inline constexpr std::uint64_t kBlkSize = 1ULL << 6;
inline constexpr std::uint64_t kFlush = 1ULL << 9;
inline constexpr std::uint64_t kTopology = 1ULL << 10;
inline constexpr std::uint64_t kMultiQueue = 1ULL << 12;
inline constexpr std::uint64_t kDiscard = 1ULL << 13;
inline constexpr std::uint64_t kWriteZeroes = 1ULL << 14;

// Requests (5.2.6) and their answers.
inline constexpr std::uint32_t kTypeIn = 0;
inline constexpr std::uint32_t kTypeOut = 1;
inline constexpr std::uint32_t kTypeFlush = 4;
inline constexpr std::uint32_t kTypeGetId = 8;
inline constexpr std::uint32_t kTypeDiscard = 11;
inline constexpr std::uint32_t kTypeWriteZeroes = 13;

inline constexpr std::uint8_t kOk = 0;
inline constexpr std::uint8_t kIoError = 1;
inline constexpr std::uint8_t kUnsupported = 2;

inline constexpr std::uint64_t kSector = 512;   // bytes
inline constexpr std::size_t kSerialSize = 20;  // bytes

struct Header {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};

inline constexpr std::uint32_t kUnmap = 1;  // a flag of a range
struct Range {                              // struct virtio_blk_discard_write_zeroes
  std::uint64_t sector;
  std::uint32_t sectors;
  std::uint32_t flags;
};

// Limits, as our configuration space tells them.
inline constexpr std::uint32_t kMaxSegment = 1U << 20;       // bytes of one descriptor
inline constexpr std::uint32_t kMaxRangeSectors = 1U << 22;  // 2 GiB
inline constexpr std::size_t kMaxRanges = 16;

}  // namespace vmmd::devices::block_protocol
