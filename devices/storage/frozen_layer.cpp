#include "devices/storage/frozen_layer.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "base/file.h"

namespace vmmd::devices {

namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::uint64_t kPage = 4096;
constexpr std::array<char, 8> kMagic{'v', 'm', 'm', 'd', 'l', 'a', 'y', 'r'};
constexpr std::uint32_t kVersion = 1;

struct Header {
  std::array<char, 8> magic;
  std::uint32_t version;
  std::uint32_t reserved;
  std::uint64_t disk_size;  // bytes
  std::uint64_t extents;    // that follow
};
struct StoredExtent {
  std::uint64_t sector;
  std::uint64_t sectors;
  std::uint64_t offset;
};
static_assert(sizeof(Header) == 32 && sizeof(StoredExtent) == 24);

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

std::uint64_t data_start(std::uint64_t extents) {
  return (sizeof(Header) + extents * sizeof(StoredExtent) + kPage - 1) / kPage * kPage;
}

// Sorted, apart, within the disk; data in order, without gaps, up to the file's end: nothing is there twice.
bool fits(const std::vector<StoredExtent>& table, std::uint64_t disk_sectors, std::uint64_t file_size) {
  std::uint64_t sector = 0;
  std::uint64_t offset = data_start(table.size());
  for (const StoredExtent& extent : table) {
    if (extent.sector < sector || extent.sectors == 0 || extent.sector >= disk_sectors ||
        extent.sectors > disk_sectors - extent.sector)
      return false;
    sector = extent.sector + extent.sectors;
    if (extent.offset == 0) continue;
    if (extent.offset != offset || extent.sectors > (file_size - std::min(file_size, offset)) / kSector)
      return false;
    offset += extent.sectors * kSector;
  }
  return offset == file_size;
}

Status copy(int from, std::uint64_t from_offset, int to, std::uint64_t to_offset, std::uint64_t length,
            std::vector<std::byte>& buffer, const std::string& name) {
  while (length > 0) {
    const std::uint64_t step = std::min<std::uint64_t>(length, buffer.size());
    const std::span<std::byte> piece(buffer.data(), step);
    VMMD_TRY(read_exact_at(from, piece, from_offset, name));
    VMMD_TRY(write_all_at(to, piece, to_offset, name));
    from_offset += step;
    to_offset += step;
    length -= step;
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<FrozenLayer>> FrozenLayer::open(UniqueFd fd, std::string name,
                                                       std::uint64_t disk_size) {
  VMMD_ASSIGN(const std::uint64_t size, file_size(fd.get(), name));
  Header header{};
  VMMD_TRY(read_exact_at(fd.get(), std::as_writable_bytes(std::span(&header, 1)), 0, name));
  if (header.magic != kMagic || header.version != kVersion)
    return fail(ErrorCode::BadRequest, "{} is not the layer of a disk that this vmmd knows", name);
  if (header.disk_size != disk_size) {
    return fail(ErrorCode::BadRequest, "{} is the layer of a disk of {} bytes, this one has {}", name,
                header.disk_size, disk_size);
  }
  // Bounds the allocation by what is really there.
  if (header.extents > (size - sizeof(Header)) / sizeof(StoredExtent))
    return fail(ErrorCode::BadRequest, "{} is damaged: its table does not fit it", name);
  std::vector<StoredExtent> table(header.extents);
  VMMD_TRY(read_exact_at(fd.get(), std::as_writable_bytes(std::span(table)), sizeof(Header), name));
  if (!fits(table, disk_size / kSector, size))
    return fail(ErrorCode::BadRequest, "{} is damaged: its table is not one", name);
  std::vector<Extent> extents;
  extents.reserve(table.size());
  for (const auto& [sector, sectors, offset] : table) extents.push_back({sector, sectors, offset});
  return std::unique_ptr<FrozenLayer>(new FrozenLayer(std::move(fd), std::move(name), std::move(extents)));
}

FrozenLayer::Run FrozenLayer::run(std::uint64_t first, std::uint64_t limit) const {
  auto next = std::upper_bound(extents_.begin(), extents_.end(), first,
                               [](std::uint64_t sector, const Extent& e) { return sector < e.sector; });
  if (next != extents_.begin()) {
    const Extent& before = *std::prev(next);
    const std::uint64_t skip = first - before.sector;
    if (skip < before.sectors) {
      const std::uint64_t offset = before.offset == 0 ? 0 : before.offset + skip * kSector;
      return {true, std::min(before.sectors - skip, limit), offset};
    }
  }
  const std::uint64_t gap = next == extents_.end() ? limit : next->sector - first;
  return {false, std::min(gap, limit), 0};
}

Status FrozenLayer::write(int out, const std::string& name, std::uint64_t disk_size,
                          const std::vector<Source>& sources) {
  std::vector<StoredExtent> table;
  table.reserve(sources.size());
  std::uint64_t offset = data_start(sources.size());
  for (const Source& source : sources) {
    const bool zeroes = source.fd < 0;
    table.push_back({source.extent.sector, source.extent.sectors, zeroes ? 0 : offset});
    if (!zeroes) offset += source.extent.sectors * kSector;
  }
  const std::vector<Header> header{{kMagic, kVersion, 0, disk_size, table.size()}};
  VMMD_TRY(write_all_at(out, bytes_of(header), 0, name));
  VMMD_TRY(write_all_at(out, bytes_of(table), sizeof(Header), name));
  if (::ftruncate(out, static_cast<off_t>(offset)) != 0)
    return fail_errno(ErrorCode::Internal, errno, "cannot make {} larger", name);
  std::vector<std::byte> buffer(std::size_t{1} << 20);
  for (std::size_t i = 0; i < sources.size(); ++i) {
    if (table[i].offset == 0) continue;
    VMMD_TRY(copy(sources[i].fd, sources[i].offset, out, table[i].offset, sources[i].extent.sectors * kSector,
                  buffer, name));
  }
  return {};
}

}  // namespace vmmd::devices
