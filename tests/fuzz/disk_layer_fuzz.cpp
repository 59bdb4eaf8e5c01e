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
  constexpr std::uint64_t kSectors = 4096;
  UniqueFd fd(::memfd_create("layer", MFD_CLOEXEC));
  // The header of the right disk, so that what follows is looked at; the fuzzer has the rest.
  if (!write_all_at(fd.get(), std::as_bytes(std::span(data, size)), 0, "layer")) return 0;
  if (size >= 24) {
    const char magic[] = {'v', 'm', 'm', 'd', 'l', 'a', 'y', 'r', 1, 0, 0, 0};
    const std::uint64_t bytes = kSectors * 512;
    if (::pwrite(fd.get(), magic, sizeof magic, 0) < 0 || ::pwrite(fd.get(), &bytes, sizeof bytes, 16) < 0)
      return 0;
  }
  // Long enough for some data behind the table.
  if (size % 2 == 0 && ::ftruncate(fd.get(), static_cast<off_t>(4096 + size % 64 * 512)) != 0) return 0;
  const auto length = file_size(fd.get(), "layer");
  const auto layer = devices::FrozenLayer::open(std::move(fd), "layer", kSectors * 512);
  if (!layer) return 0;
  for (std::uint64_t at = 0; at < kSectors;) {
    const auto run = (*layer)->run(at, kSectors - at);
    if (run.sectors == 0 || run.sectors > kSectors - at) std::abort();
    if (run.offset != 0 && (!run.here || run.offset + run.sectors * 512 > *length)) std::abort();
    at += run.sectors;
  }
  return 0;
}
