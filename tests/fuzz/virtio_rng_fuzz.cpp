#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <string>

#include "devices/virtio/rng.h"
#include "tests/fuzz/support/virtio_fuzz.h"
#include "tests/unit/support/fake_device_events.h"

using namespace vmmd;
using namespace vmmd::devices;

// Any chains, with the host's generator or with a source that the fuzzer fills and ends.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  std::array<int, 2> fds{};
  if (::pipe2(fds.data(), O_CLOEXEC | O_NONBLOCK) != 0) std::abort();
  const UniqueFd read_end(fds[0]);
  UniqueFd write_end(fds[1]);
  testing::FakeEventLoop loop;
  testing::FakeGuest guest(256 << 10);
  testing::FakeDeviceEvents events;
  const bool system = input.take<std::uint8_t>() % 4 == 0;
  EntropySource source = *EntropySource::open(system ? std::string(EntropySource::kSystem)
                                                     : "/proc/self/fd/" + std::to_string(read_end.get()));
  VirtioRng device(loop, source, events);
  VirtioRng cold(loop, source, events);
  fuzz::play_virtio(input, device, cold, loop, guest, [&](fuzz::Input& more) {
    const std::string bytes = more.take_bytes(more.take<std::uint8_t>());
    if (bytes.empty()) write_end.reset();
    if (write_end && ::write(write_end.get(), bytes.data(), bytes.size()) < 0 && errno != EAGAIN)
      std::abort();
  });
  return 0;
}
