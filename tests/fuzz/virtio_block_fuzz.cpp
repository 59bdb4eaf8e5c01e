// A hostile driver, a disk that fails as it likes and answers in any order, saved states and stops: nothing
// crashes, no chain is lost at a stop, no byte beyond the disk's end is touched, and every state that
// restore() takes saves to the same bytes again.

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "devices/virtio/block.h"
#include "tests/fuzz/support/device_fuzz.h"
#include "tests/unit/support/fake_device_events.h"
#include "tests/unit/support/virtio_device.h"

using namespace vmmd;

namespace {

constexpr std::uint16_t kQueueSize = 8;
constexpr std::uint64_t kDiskSize = 32 * 512;

/// Bytes in memory. Holds requests until it is told to do one of them.
class ScriptedDisk final : public devices::Disk {
 public:
  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] bool readonly() const override { return readonly_only; }
  [[nodiscard]] bool holds_up_loop() const override { return false; }
  [[nodiscard]] Result<std::uint64_t> size() override { return kDiskSize + grown; }
  void submit(devices::DiskRequest& request) override {
    const bool ranged = request.op != devices::DiskOp::Flush;
    if (ranged &&
        (request.length == 0 || request.offset > size_now() || request.length > size_now() - request.offset))
      std::abort();
    waiting_.push_back(&request);
  }
  void kick() override {}
  void reap() override {
    while (at_once && !waiting_.empty()) finish(waiting_.begin(), 0);
  }
  Status start(devices::EventLoop&, std::function<void()> batch_done) override {
    batch_done_ = std::move(batch_done);
    return {};
  }
  void stop() override {
    if (!waiting_.empty()) std::abort();
  }
  void complete(std::uint8_t pick, int error) {
    if (waiting_.empty()) return;
    finish(waiting_.begin() + pick % static_cast<std::ptrdiff_t>(waiting_.size()), error);
    batch_done_();
  }
  void complete_all() {
    while (!waiting_.empty()) complete(0, 0);
  }
  bool readonly_only = false;
  bool at_once = false;  // done when it is reaped
  std::uint64_t grown = 0;

 private:
  [[nodiscard]] std::uint64_t size_now() const { return kDiskSize + grown; }
  void finish(std::vector<devices::DiskRequest*>::iterator at, int error) {
    devices::DiskRequest& request = **at;
    waiting_.erase(at);
    if (error == 0) serve(request);
    request.error = error;
    request.done(request);
  }
  void serve(const devices::DiskRequest& request) {
    bytes_.resize(size_now());
    std::uint64_t at = request.offset;
    std::uint64_t sum = 0;
    for (const iovec& buffer : request.buffers) {
      if (request.op == devices::DiskOp::Read)
        std::memcpy(buffer.iov_base, bytes_.data() + at, buffer.iov_len);
      if (request.op == devices::DiskOp::Write)
        std::memcpy(bytes_.data() + at, buffer.iov_base, buffer.iov_len);
      at += buffer.iov_len;
      sum += buffer.iov_len;
    }
    const bool transfer = request.op == devices::DiskOp::Read || request.op == devices::DiskOp::Write;
    if (transfer && sum != request.length) std::abort();
  }

  const std::string name_ = "scripted";
  std::vector<char> bytes_ = std::vector<char>(kDiskSize);
  std::vector<devices::DiskRequest*> waiting_;
  std::function<void()> batch_done_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::span<const std::uint8_t> rest(data, size);
  const auto next = [&]() -> std::uint8_t {
    if (rest.empty()) return 0;
    const std::uint8_t value = rest.front();
    rest = rest.subspan(1);
    return value;
  };
  const auto next16 = [&] { return static_cast<std::uint16_t>(next() | next() << 8); };
  testing::FakeEventLoop loop;
  testing::FakeGuest guest(1 << 20);
  ScriptedDisk disk;
  testing::FakeDeviceEvents events;
  const std::uint8_t options = next();
  disk.readonly_only = (options & 1U) != 0;
  disk.at_once = (options & 8U) != 0;
  devices::VirtioBlock device({.id = "fuzz",
                               .serial = "1",
                               .queues = 2,
                               .queue_size = kQueueSize,
                               .discard = (options & 2U) != 0,
                               .wait_when_full = (options & 4U) != 0},
                              disk, kDiskSize, loop, nullptr, events);
  const std::uint64_t features = 0x7fffULL << 48 | next16() | std::uint64_t{next16()} << 16;
  testing::RunningDevice running(device, loop, guest, features);
  running.start();
  bool stopped = false;
  const auto room = guest.allocate(512 << 10);
  const auto stop = [&] {
    bool done = false;
    device.stop([&done] { done = true; });
    disk.complete_all();
    loop.run_ready();
    if (!done) std::abort();
    for (unsigned i = 0; i < 2; ++i) {
      if (running.queue(i).in_flight() != 0) std::abort();
    }
  };
  for (unsigned steps = 0; !rest.empty() && steps < 2000; ++steps) {
    const std::uint8_t op = next();
    auto& driver = running.driver((op >> 4U) % 2);
    switch (op & 15U) {
      case 0:
      case 1:
      case 2: {
        testing::FakeDriver::Descriptor descriptor{room.value + next16() * 8U, next16(),
                                                   static_cast<std::uint16_t>(next() & 7U), next()};
        if (next() == 7) descriptor.address = ~std::uint64_t{0} - next16();
        if (next() > 100) descriptor.length = std::array<std::uint32_t, 4>{16, 1, 512, 4096}[next() % 4];
        driver.set_descriptor(next() % kQueueSize, descriptor);
        break;
      }
      case 3: {  // a header that means something
        const auto at = devices::GuestAddress(room.value + next16() * 8U);
        guest.set(at, std::uint64_t{std::array<std::uint8_t, 8>{0, 1, 4, 8, 11, 13, 0, 99}[next() % 8]});
        guest.set(devices::GuestAddress(at.value + 8), std::uint64_t{next()} % 40);
        guest.set(devices::GuestAddress(at.value + 16), std::uint64_t{next()} % 40);
        break;
      }
      case 4:
      case 5:
        driver.publish(next() % (kQueueSize + 1));
        break;
      case 6:
      case 7:
        if (!stopped) running.notify((op >> 4U) % 2);
        break;
      case 8:
        guest.set(devices::GuestAddress(room.value + next16() * 7U), std::uint64_t{next()} << 16 | next16());
        break;
      case 9:
      case 10:
        if (!stopped) disk.complete(next(), 0);
        break;
      case 11:
        if (!stopped) disk.complete(next(), std::array<int, 4>{EIO, ENOSPC, EOPNOTSUPP, EINVAL}[next() % 4]);
        break;
      case 12:
        if (!stopped) stop();
        stopped = true;
        break;
      case 13:
        disk.grown = std::max<std::uint64_t>(disk.grown, 512U * next());
        if (!stopped) device.host_end_changed();
        break;
      case 14: {
        if (!stopped) break;
        const std::size_t length = std::min<std::size_t>(next() % 32, rest.size());
        fuzz::restore_bytes(device, {rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(length)});
        rest = rest.subspan(length);
        break;
      }
      default:
        static_cast<void>(device.read_config(next(), 1U << (op >> 6U)));
        static_cast<void>(device.counters());
        break;
    }
  }
  if (!stopped) stop();
  running.stop();
  return 0;
}
