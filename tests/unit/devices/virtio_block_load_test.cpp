// How much a virtio disk takes on at once, whatever its guest asks for.

#include <malloc.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "devices/virtio/block.h"
#include "tests/unit/support/fake_device_events.h"
#include "tests/unit/support/virtio_device.h"

namespace vmmd::devices {
namespace {

using testing::Buffer;

struct Header {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};

constexpr std::uint32_t kMiB = 1 << 20;
constexpr std::uint64_t kDiskSize = std::uint64_t{1} << 40;

/// Answers one request for each turn of the loop, or all at once, and remembers what it had together.
class SlowDisk final : public Disk {
 public:
  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] bool readonly() const override { return false; }
  [[nodiscard]] bool holds_up_loop() const override { return false; }
  [[nodiscard]] Result<std::uint64_t> size() override { return kDiskSize; }
  void submit(DiskRequest& request) override {
    waiting_.push_back(&request);
    requests += 1;
    bytes_ += request.length;
    all_bytes += request.length;
    most_bytes = std::max(most_bytes, bytes_);
    most_requests = std::max(most_requests, waiting_.size());
    for (const iovec& buffer : request.buffers) longest_buffer = std::max(longest_buffer, buffer.iov_len);
  }
  void kick() override {
    if (at_once || waiting_.empty() || std::exchange(posted_, true)) return;
    loop_->post([this] {
      posted_ = false;
      DiskRequest& first = *waiting_.front();
      waiting_.erase(waiting_.begin());
      bytes_ -= first.length;
      order.push_back(first.offset / 512);
      first.error = 0;
      first.done(first);
      kick();
      done_();
    });
  }
  void reap() override {
    if (!at_once) return;
    for (DiskRequest* request : std::exchange(waiting_, {})) {
      bytes_ -= request->length;
      request->error = 0;
      request->done(*request);
    }
  }
  Status start(EventLoop& loop, std::function<void()> done) override {
    loop_ = &loop;
    done_ = std::move(done);
    return {};
  }
  void stop() override {}

  bool at_once = false;  // all is done in the turn that asks for it
  std::uint64_t all_bytes = 0;
  std::uint64_t most_bytes = 0;
  std::size_t most_requests = 0;
  std::size_t longest_buffer = 0;
  std::size_t requests = 0;
  std::vector<std::uint64_t> order;  // first sectors

 private:
  std::string name_ = "slow";
  std::uint64_t bytes_ = 0;
  std::vector<DiskRequest*> waiting_;
  bool posted_ = false;
  EventLoop* loop_ = nullptr;
  std::function<void()> done_;
};

struct Fixture {
  explicit Fixture(std::uint16_t queues = 1, std::uint16_t queue_size = 128,
                   std::uint64_t features = testing::RunningDevice::kAllFeatures & ~kVirtioEventIdx)
      : device({.id = "d", .serial = {}, .queues = queues, .queue_size = queue_size}, disk, kDiskSize, loop,
               nullptr, events),
        running(device, loop, guest, features),
        data(guest.allocate(2 * kMiB)) {
    running.start();
  }
  /// Its status byte. The `segments` name the same memory.
  GuestAddress add(unsigned queue, std::uint32_t type, std::uint64_t sector, std::size_t segments,
                   std::uint32_t length = kMiB) {
    const auto status = guest.place_value(std::uint8_t{0xEE});
    std::vector<Buffer> readable{{guest.place_value(Header{type, 0, sector}), sizeof(Header)}};
    std::vector<Buffer> writable;
    (type == 0 ? writable : readable).resize(segments + (type == 0 ? 0 : 1), Buffer{data, length});
    writable.push_back({status, 1});
    running.driver(queue).add_indirect(readable, writable);
    return status;
  }

  SlowDisk disk;
  testing::FakeDeviceEvents events;
  testing::FakeEventLoop loop;
  testing::FakeGuest guest{std::size_t{8} << 20};
  VirtioBlock device;
  testing::RunningDevice running;
  GuestAddress data;
};

}  // namespace

TEST_CASE("a guest that names the same memory again and again has a bounded part of it in flight") {
  Fixture f;
  std::vector<GuestAddress> statuses;
  for (unsigned i = 0; i < 100; ++i) statuses.push_back(f.add(0, i % 2, 1000 * i, 14));
  f.running.notify(0);
  for (const GuestAddress status : statuses) CHECK(f.guest.value<std::uint8_t>(status) == 0);
  CHECK(f.disk.requests == 100);
  CHECK(f.disk.most_bytes > 64 * kMiB - 14 * kMiB);
  CHECK(f.disk.most_bytes < 64 * kMiB + 14 * kMiB);
}

TEST_CASE("a disk that is as fast as memory leaves the loop its turns") {
  Fixture f(2);
  f.disk.at_once = true;
  for (unsigned i = 0; i < 60; ++i) {
    f.add(0, 0, i, 14);
    f.add(1, 0, i, 14);
  }
  f.device.notify(0);
  f.device.notify(1);
  std::uint64_t seen = 0;
  unsigned turns = 0;
  do {
    CHECK(f.disk.all_bytes - seen < 64 * kMiB + 14 * kMiB);
    seen = f.disk.all_bytes;
    ++turns;
  } while (f.loop.run_once());
  CHECK(f.disk.requests == 120);
  CHECK(turns >= 120 * 14 / (64 + 14));
}

TEST_CASE("many small requests are in flight together") {
  Fixture f(1, 1024);
  for (unsigned i = 0; i < 1024; ++i) f.add(0, 0, i, 1, 512);
  f.running.notify(0);
  CHECK(f.disk.requests == 1024);
  CHECK(f.disk.most_requests == 1024);
  CHECK(f.running.driver(0).take_used().size() == 1024);
}

TEST_CASE("queues that are not used cost no memory") {
  const auto in_use = [] { return ::mallinfo2().uordblks; };  // bytes; a sanitizer's allocator says 0
  SlowDisk disk;
  testing::FakeDeviceEvents events;
  testing::FakeEventLoop loop;
  testing::FakeGuest guest(std::size_t{8} << 20);
  const std::size_t before = in_use();
  VirtioBlock device({.id = "d", .serial = {}, .queues = 64, .queue_size = 1024}, disk, kDiskSize, loop,
                     nullptr, events);
  const std::size_t made = in_use();
  testing::RunningDevice running(device, loop, guest);  // and its drivers, which are the test's
  const std::size_t driven = in_use();
  running.start();
  CHECK((made - before) + (in_use() - driven) < 256 * 1024);
}

TEST_CASE("where not all fits, each queue has its turn") {
  Fixture f(2);
  for (unsigned i = 0; i < 60; ++i) {
    f.add(0, 0, i, 8);
    f.add(1, 0, 1000 + i, 8);
  }
  f.device.notify(0);
  f.running.notify(1);
  REQUIRE(f.disk.order.size() == 120);
  const auto first_of_second =
      std::find_if(f.disk.order.begin(), f.disk.order.end(), [](auto sector) { return sector >= 1000; });
  CHECK(first_of_second - f.disk.order.begin() < 30);
}

TEST_CASE("the largest segment is told, and a driver that knows it and takes larger ones gets an error") {
  Fixture f;
  CHECK((f.device.features() & 2) != 0);
  CHECK(f.device.read_config(8, 4) == kMiB);
  const auto whole = f.add(0, 0, 0, 2, kMiB);
  const auto more = f.add(0, 0, 0, 1, kMiB + 512);
  f.running.notify(0);
  CHECK(f.guest.value<std::uint8_t>(whole) == 0);
  CHECK(f.guest.value<std::uint8_t>(more) == 1);
  CHECK(f.device.counters().at("invalid") == 1);
}

TEST_CASE(
    "a driver that does not know the largest segment has larger ones cut up, and no request of any size") {
  Fixture f(1, 1024, testing::RunningDevice::kAllFeatures & ~kVirtioEventIdx & ~std::uint64_t{2});
  const auto large = f.add(0, 1, 0, 3, kMiB + kMiB / 2);
  const auto too_large = f.add(0, 0, 0, 1000, kMiB + kMiB / 2);
  f.running.notify(0);
  CHECK(f.guest.value<std::uint8_t>(large) == 0);
  CHECK(f.disk.longest_buffer == kMiB);
  CHECK(f.disk.most_bytes == 3 * (kMiB + kMiB / 2));
  CHECK(f.guest.value<std::uint8_t>(too_large) == 1);
}

}  // namespace vmmd::devices
