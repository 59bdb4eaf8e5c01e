// A hostile layer of a disk from a snapshot: it is refused, or every run that it answers lies within the disk
// and the file, and the runs go over the whole disk.

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "base/file.h"
#include "devices/storage/frozen_layer.h"

using namespace vmmd;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // A quarter of the disks are so large that a table of a sparse file may claim any number of extents.
  const bool sparse = size % 4 == 2;
  const std::uint64_t sectors = sparse ? std::uint64_t{1} << 34 : 4096;
  UniqueFd fd(::memfd_create("layer", MFD_CLOEXEC));
  // The header of the right disk, so that what follows is looked at; the fuzzer has the rest.
  if (!write_all_at(fd.get(), std::as_bytes(std::span(data, size)), 0, "layer")) return 0;
  if (size >= 24) {
    const char magic[] = {'v', 'm', 'm', 'd', 'l', 'a', 'y', 'r', 1, 0, 0, 0};
    const std::uint64_t bytes = sectors * 512;
    if (::pwrite(fd.get(), magic, sizeof magic, 0) < 0 || ::pwrite(fd.get(), &bytes, sizeof bytes, 16) < 0)
      return 0;
  }
  // Long enough for some data behind the table; or for a table of as many extents as the disk has sectors.
  const std::uint64_t length_wanted = sparse ? std::uint64_t{1} << 40 : 4096 + size % 64 * 512;
  if (size % 2 == 0 && ::ftruncate(fd.get(), static_cast<off_t>(length_wanted)) != 0) return 0;
  const auto length = file_size(fd.get(), "layer");
  const auto layer = devices::FrozenLayer::open(std::move(fd), "layer", sectors * 512);
  if (!layer) return 0;
  for (std::uint64_t at = 0; at < sectors;) {
    const auto run = (*layer)->run(at, sectors - at);
    if (run.sectors == 0 || run.sectors > sectors - at) std::abort();
    if (run.offset != 0 && (!run.here || run.offset + run.sectors * 512 > *length)) std::abort();
    at += run.sectors;
  }
  return 0;
}
