#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "devices/storage/raw_file.h"
#include "devices/virtio/pmem.h"
#include "tests/fuzz/support/virtio_fuzz.h"
#include "tests/unit/support/fake_device_events.h"

using namespace vmmd;
using namespace vmmd::devices;

namespace {

/// A file without a name.
struct Image {
  Image() : fd(::memfd_create("image", MFD_CLOEXEC)) {
    if (!fd || ::ftruncate(fd.get(), 4096) != 0) std::abort();
    path = "/proc/self/fd/" + std::to_string(fd.get());
  }
  UniqueFd fd;
  std::string path;
};

}  // namespace

// Any requests, over a file or over memory that is kept nowhere.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Image image;
  fuzz::Input input(data, size);
  testing::FakeEventLoop loop;
  testing::FakeGuest guest(256 << 10);
  testing::FakeDeviceEvents events;
  const bool keeps = input.take<std::uint8_t>() % 2 == 0;
  // Without io_uring the loop ends only when all is done: an input always does the same.
  const auto disk = *RawFile::open(image.path, {.readonly = false, .use_io_uring = false});
  RawFile* const backing = keeps ? disk.get() : nullptr;
  VirtioPmem device({"p", 1 << 30, 2 << 20}, backing, loop, events);
  VirtioPmem cold({"p", 1 << 30, 2 << 20}, backing, loop, events);
  fuzz::play_virtio(input, device, cold, loop, guest, [](fuzz::Input&) {});
  return 0;
}
