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
constexpr std::uint64_t kPieceExtents = 4096;  // of a table, read at once

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

/// Reads a table extent by extent and says of each whether it may come next: sorted, apart, within the disk;
/// data in order, without gaps, up to the file's end: nothing is there twice.
class TableCheck {
 public:
  TableCheck(std::uint64_t extents, std::uint64_t disk_sectors, std::uint64_t file_size)
      : disk_sectors_(disk_sectors), file_size_(file_size), offset_(data_start(extents)) {}
  [[nodiscard]] bool take(const StoredExtent& extent) {
    if (extent.sector < sector_ || extent.sectors == 0 || extent.sector >= disk_sectors_ ||
        extent.sectors > disk_sectors_ - extent.sector)
      return false;
    sector_ = extent.sector + extent.sectors;
    if (extent.offset == 0) return true;
    if (extent.offset != offset_ || extent.sectors > (file_size_ - std::min(file_size_, offset_)) / kSector)
      return false;
    offset_ += extent.sectors * kSector;
    return true;
  }
  [[nodiscard]] bool whole() const { return offset_ == file_size_; }

 private:
  std::uint64_t disk_sectors_;
  std::uint64_t file_size_;
  std::uint64_t sector_ = 0;  // the next extent begins here or later
  std::uint64_t offset_;      // of the next data
};

Status copy(int from, std::uint64_t from_offset, int to, std::uint64_t to_offset, std::uint64_t length,
            std::vector<std::byte>& buffer, const std::string& name, const std::stop_token& stop) {
  while (length > 0) {
    if (stop.stop_requested()) return fail(ErrorCode::Conflict, "writing {} was cancelled", name);
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
  const std::uint64_t sectors = disk_size / kSector;
  if (header.extents > sectors || header.extents > (size - sizeof(Header)) / sizeof(StoredExtent))
    return fail(ErrorCode::BadRequest, "{} is damaged: its table does not fit it", name);
  // A sparse file is as long as it likes to be, so its length bounds no allocation. A hole is no extent: what
  // is kept grows only with bytes that are really there.
  TableCheck check(header.extents, sectors, size);
  std::vector<Extent> extents;
  std::vector<StoredExtent> piece(std::min(header.extents, kPieceExtents));
  for (std::uint64_t done = 0; done < header.extents; done += piece.size()) {
    piece.resize(std::min(header.extents - done, kPieceExtents));
    VMMD_TRY(read_exact_at(fd.get(), std::as_writable_bytes(std::span(piece)),
                           sizeof(Header) + done * sizeof(StoredExtent), name));
    for (const StoredExtent& extent : piece) {
      if (!check.take(extent))
        return fail(ErrorCode::BadRequest, "{} is damaged: its table is not one", name);
      extents.push_back({extent.sector, extent.sectors, extent.offset});
    }
  }
  if (!check.whole()) return fail(ErrorCode::BadRequest, "{} is damaged: its table is not one", name);
  extents.shrink_to_fit();
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
                          const std::vector<Source>& sources, const std::stop_token& stop) {
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
                  buffer, name, stop));
  }
  return {};
}

}  // namespace vmmd::devices
