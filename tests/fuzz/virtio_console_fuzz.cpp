#include <cstdlib>
#include <string>

#include "devices/virtio/console.h"
#include "tests/fuzz/support/virtio_fuzz.h"
#include "tests/unit/support/fake_char_backend.h"

using namespace vmmd;
using namespace vmmd::devices;

// Any chains, and a user who types and changes his terminal's size: not a byte of input may be lost.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  testing::FakeEventLoop loop;
  testing::FakeGuest guest(256 << 10);
  testing::FakeCharBackend host;
  testing::FakeCharBackend no_host;
  VirtioConsole device(loop, host);
  VirtioConsole cold(loop, no_host);
  std::size_t typed = 0;
  fuzz::play_virtio(input, device, cold, loop, guest, [&](fuzz::Input& more) {
    const auto what = more.take<std::uint8_t>();
    if (what % 4 == 0) host.resize({more.take<std::uint16_t>(), more.take<std::uint16_t>()});
    const std::string text = more.take_bytes(what);
    typed += text.size();
    host.type(text);
    host.deliver();
    host.output.clear();
  });
  const auto taken = static_cast<std::size_t>(device.counters().at("rx_bytes"));
  if (taken + host.waiting.size() != typed) std::abort();
  return 0;
}
