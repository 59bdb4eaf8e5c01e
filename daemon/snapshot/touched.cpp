#include "daemon/snapshot/touched.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>

#include "base/file.h"

namespace vmmd::snapshot {

namespace {

using memory::kPageSize;

// /proc/pid/pagemap (Documentation/admin-guide/mm/pagemap.rst): one 64-bit entry per page.
constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
constexpr std::uint64_t kSwapped = std::uint64_t{1} << 62;
constexpr std::uint64_t kFileOrShared = std::uint64_t{1} << 61;
constexpr std::size_t kEntriesPerRead = 32768;  // 256 KiB for 128 MiB of RAM

void append(std::vector<Extent>& extents, std::uint64_t offset, std::uint64_t length) {
  if (!extents.empty() && extents.back().offset + extents.back().length == offset) {
    extents.back().length += length;
  } else {
    extents.push_back({offset, length});
  }
}

// Pages of ours: present or swapped, and with `private_only` not merely a view of the file's page.
Result<std::vector<Extent>> mapped_extents(const memory::GuestRam& ram, bool private_only) {
  VMMD_ASSIGN(const UniqueFd pagemap, open_file("/proc/self/pagemap", O_RDONLY));
  std::vector<Extent> extents;
  std::vector<std::uint64_t> entries(kEntriesPerRead);
  const std::vector<devices::GuestRegion> regions = ram.regions();
  for (std::size_t i = 0; i < regions.size(); ++i) {
    const std::uint64_t pages = regions[i].size / kPageSize;
    const std::uint64_t first = reinterpret_cast<std::uint64_t>(regions[i].host) / kPageSize;
    for (std::uint64_t page = 0; page < pages; page += kEntriesPerRead) {
      const std::span batch(entries.data(), std::min<std::uint64_t>(kEntriesPerRead, pages - page));
      VMMD_TRY(read_exact_at(pagemap.get(), std::as_writable_bytes(batch),
                             (first + page) * sizeof(std::uint64_t), "/proc/self/pagemap"));
      for (std::size_t n = 0; n < batch.size(); ++n) {
        const std::uint64_t entry = batch[n];
        const bool ours = (entry & kSwapped) != 0 ||
                          ((entry & kPresent) != 0 && (!private_only || (entry & kFileOrShared) == 0));
        if (ours) append(extents, ram.layout()[i].file_offset + (page + n) * kPageSize, kPageSize);
      }
    }
  }
  return extents;
}

std::vector<Extent> merge(const std::vector<Extent>& a, const std::vector<Extent>& b) {
  std::vector<Extent> all;
  all.reserve(a.size() + b.size());
  std::merge(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(all),
             [](const Extent& x, const Extent& y) { return x.offset < y.offset; });
  std::vector<Extent> merged;
  for (const Extent& extent : all) {
    if (!merged.empty() && merged.back().offset + merged.back().length >= extent.offset) {
      const std::uint64_t end =
          std::max(merged.back().offset + merged.back().length, extent.offset + extent.length);
      merged.back().length = end - merged.back().offset;
    } else {
      merged.push_back(extent);
    }
  }
  return merged;
}

}  // namespace

Result<std::vector<Extent>> data_extents(int fd, std::uint64_t length) {
  std::vector<Extent> extents;
  std::uint64_t at = 0;
  while (at < length) {
    const off_t data = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // nothing but a hole up to the end
    if (data < 0 && errno == EINVAL) return std::vector<Extent>{{0, length}};
    if (data < 0) return fail_errno(ErrorCode::Internal, errno, "cannot look for data behind offset {}", at);
    const off_t hole = ::lseek(fd, data, SEEK_HOLE);
    if (hole < 0)
      return fail_errno(ErrorCode::Internal, errno, "cannot look for a hole behind offset {}", data);
    // Filesystems answer in blocks of their own; pages are what we work in.
    const std::uint64_t start = std::max(at, static_cast<std::uint64_t>(data) / kPageSize * kPageSize);
    const std::uint64_t end =
        std::min(length, (static_cast<std::uint64_t>(hole) + kPageSize - 1) / kPageSize * kPageSize);
    if (start >= length) break;
    append(extents, start, end - start);
    at = end;
  }
  return extents;
}

Result<std::vector<Extent>> touched_extents(const memory::GuestRam& ram) {
  switch (ram.backing()) {
    case memory::Backing::Anonymous:
      return mapped_extents(ram, false);
    case memory::Backing::SharedMemory:
      // Huge pages: their filesystem does not tell holes, but they are never swapped, so page tables do.
      return ram.huge_pages() ? mapped_extents(ram, false) : data_extents(ram.fd(), ram.size());
    case memory::Backing::File:
      return data_extents(ram.fd(), ram.size());
    case memory::Backing::PrivateFile: {
      VMMD_ASSIGN(const auto base, data_extents(ram.fd(), ram.size()));
      VMMD_ASSIGN(const auto own, mapped_extents(ram, true));
      return merge(base, own);
    }
  }
  return fail(ErrorCode::Internal, "unknown backing of RAM");
}

std::uint64_t total_length(const std::vector<Extent>& extents) {
  std::uint64_t sum = 0;
  for (const Extent& extent : extents) sum += extent.length;
  return sum;
}

}  // namespace vmmd::snapshot
