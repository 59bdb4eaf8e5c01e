#include "devices/virtio/balloon.h"
#include "tests/fuzz/support/virtio_fuzz.h"
#include "tests/unit/support/fake_device_events.h"

using namespace vmmd;
using namespace vmmd::devices;

namespace {

constexpr std::uint64_t kRam = 256 << 10;

/// Only RAM may be taken back by name of pages; reports are buffers, so they are RAM too.
class CheckedReclaim final : public MemoryReclaim {
 public:
  explicit CheckedReclaim(std::uint64_t granularity) : granularity_(granularity) {}
  [[nodiscard]] std::uint64_t granularity() const override { return granularity_; }
  Result<std::uint64_t> discard(GuestAddress address, std::uint64_t length) override {
    constexpr std::uint64_t kStart = testing::FakeGuest::kStart;
    if (address.value < kStart || length > kRam || address.value - kStart > kRam - length) std::abort();
    if (refuse) return fail(ErrorCode::Internal, "no");
    return length;
  }
  bool refuse = false;

 private:
  std::uint64_t granularity_;
};

}  // namespace

// Any pages, reports and statistics, with pages of both sizes, while the host changes its mind.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  testing::FakeEventLoop loop;
  testing::FakeGuest guest(kRam);
  testing::FakeDeviceEvents events;
  const auto kind = input.take<std::uint8_t>();
  CheckedReclaim reclaim(kind % 2 == 0 ? 4096 : 16384);
  const VirtioBalloon::Config config{
      .ram_size = kRam, .size = 0, .deflate_on_oom = kind % 4 < 2, .free_page_reporting = kind % 8 < 4};
  VirtioBalloon device(config, loop, reclaim, events);
  VirtioBalloon cold(config, loop, reclaim, events);
  fuzz::play_virtio(input, device, cold, loop, guest, [&](fuzz::Input& more) {
    reclaim.refuse = more.take<std::uint8_t>() % 8 == 0;
    device.resize(more.take<std::uint32_t>());
    static_cast<void>(device.counters());
    if (device.actual_bytes() > kRam) std::abort();
  });
  return 0;
}
