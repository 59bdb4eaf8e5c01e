#include "daemon/memory/ram_reclaim.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

namespace vmmd::memory {

std::uint64_t RamReclaim::granularity() const {
  return ram_.huge_page_size() != 0 ? ram_.huge_page_size() : kPageSize;
}

Result<std::uint64_t> RamReclaim::discard(devices::GuestAddress address, std::uint64_t length) {
  const std::uint64_t piece = granularity();
  std::uint64_t end = 0;
  if (__builtin_add_overflow(address.value, length, &end)) end = UINT64_MAX;
  std::uint64_t discarded = 0;
  const std::vector<devices::GuestRegion> regions = ram_.regions();
  for (std::size_t i = 0; i < regions.size(); ++i) {
    const devices::GuestRegion& region = regions[i];
    const std::uint64_t first = std::max(address.value, region.start.value);
    const std::uint64_t last = std::min(end, region.start.value + region.size);
    if (first >= last) continue;
    // Host pages are counted from the region's start: that is where the mapping, which is aligned, begins.
    const std::uint64_t from = (first - region.start.value + piece - 1) / piece * piece;
    const std::uint64_t to = (last - region.start.value) / piece * piece;
    if (from >= to) continue;
    VMMD_TRY(drop(region.host + from, ram_.layout()[i].file_offset + from, to - from));
    discarded += to - from;
  }
  return discarded;
}

Status RamReclaim::drop(std::byte* host, std::uint64_t file_offset, std::uint64_t length) const {
  if (ram_.backing() == Backing::Anonymous || ram_.backing() == Backing::PrivateFile) {
    if (::madvise(host, length, MADV_DONTNEED) == 0) return {};
    return fail_errno(ErrorCode::Internal, errno, "cannot give {} bytes of guest RAM back to the host",
                      length);
  }
  if (ram_.backing() == Backing::File) {
    struct stat info = {};
    if (::fstat(ram_.fd(), &info) != 0)
      return fail_errno(ErrorCode::Internal, errno, "cannot stat the memory file");
    if (info.st_nlink > 1) {
      return fail(ErrorCode::Conflict,
                  "the memory file has {} hard links: another may be a snapshot's memory, so pages that the "
                  "guest gives back stay where they are",
                  info.st_nlink);
    }
  }
  int result = 0;
  do {
    result = ::fallocate(ram_.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                         static_cast<off_t>(file_offset), static_cast<off_t>(length));
  } while (result != 0 && errno == EINTR);
  if (result == 0) return {};
  return fail_errno(ErrorCode::Internal, errno, "cannot punch a hole of {} bytes into guest RAM", length);
}

}  // namespace vmmd::memory
