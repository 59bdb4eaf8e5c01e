// How a disk's requests share the turns of its loop.
#include <array>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "devices/virtio/block.h"
#include "tests/unit/support/fake_device_events.h"
#include "tests/unit/support/virtio_device.h"

namespace vmmd::devices {
namespace {

constexpr std::uint64_t kSize = 64 * 512;
constexpr std::uint16_t kQueueSize = 64;
constexpr std::size_t kPart = 16;  // VirtioBlock's

/// A disk that has everything at once (what was kicked waits for reap()), or that is served by the loop.
struct QuickDisk final : Disk {
  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] bool readonly() const override { return false; }
  [[nodiscard]] Result<std::uint64_t> size() override { return kSize; }
  [[nodiscard]] bool holds_up_loop() const override { return false; }
  void submit(DiskRequest& request) override { submitted.push_back(&request); }
  void kick() override {
    if (submitted.empty()) return;
    parts.push_back(submitted.size());
    complete.insert(complete.end(), submitted.begin(), submitted.end());
    submitted.clear();
    if (!at_once) {
      loop->post([this] {
        finish_all();
        batch_done();
      });
    }
  }
  void reap() override {
    if (at_once) finish_all();
  }
  Status start(EventLoop& event_loop, std::function<void()> done) override {
    loop = &event_loop;
    batch_done = std::move(done);
    return {};
  }
  void stop() override {}
  void finish_all() {
    for (DiskRequest* request : std::exchange(complete, {})) request->done(*request);
  }

  bool at_once = true;
  std::vector<DiskRequest*> submitted;
  std::vector<DiskRequest*> complete;
  std::vector<std::size_t> parts;  // how many requests each kick() took
  EventLoop* loop = nullptr;
  std::function<void()> batch_done;
  std::string name_ = "quick";
};

struct Fixture {
  Fixture() {
    running.emplace(device, loop, guest);
    running->start();
  }
  /// A flush is a request without data.
  void add(unsigned queue) {
    const std::array<std::uint32_t, 4> header{4, 0, 0, 0};
    running->driver(queue).add_indirect({{guest.place_value(header), sizeof header}},
                                        {{guest.allocate(1), 1}});
  }
  unsigned used(unsigned queue) { return running->driver(queue).used_index(); }

  testing::FakeEventLoop loop;
  testing::FakeGuest guest;
  testing::FakeDeviceEvents events;
  QuickDisk disk;
  VirtioBlock device{{.id = "root", .serial = {}, .queues = 2, .queue_size = kQueueSize},
                     disk,
                     kSize,
                     loop,
                     nullptr,
                     events};
  std::optional<testing::RunningDevice> running;
};

}  // namespace

TEST_CASE("what the disk has at once is answered in the same turn, with one interrupt") {
  Fixture f;
  for (unsigned i = 0; i < 40; ++i) f.add(0);
  f.device.notify(0);  // and no turn of the loop
  CHECK(f.used(0) == 40);
  CHECK(f.disk.parts == std::vector<std::size_t>{kPart, kPart, 8});
  CHECK(f.running->transport.queue_interrupts[0] == 1);
  CHECK_FALSE(f.running->driver(0).notifications_suppressed());
}

TEST_CASE("after as many requests as a queue has entries, others have their turn, and then it goes on") {
  Fixture f;
  for (unsigned i = 0; i < kQueueSize; ++i) f.add(0);
  f.device.notify(0);
  CHECK(f.used(0) == kQueueSize);
  static_cast<void>(f.running->driver(0).take_used());
  for (unsigned i = 0; i < kQueueSize; ++i) f.add(0);
  f.loop.run_ready();  // the turn that was left over finds them without a notification
  CHECK(f.used(0) == 2 * kQueueSize);
}

TEST_CASE("a queue whose slots are all in use goes on after another queue's turn made room") {
  Fixture f;
  f.disk.at_once = false;
  for (unsigned i = 0; i < kQueueSize; ++i) f.add(0);
  f.device.notify(0);
  REQUIRE(f.used(0) == 0);
  f.disk.at_once = true;
  f.add(1);
  f.device.notify(1);
  REQUIRE(f.used(0) == kQueueSize);
  static_cast<void>(f.running->driver(0).take_used());
  f.add(0);  // the driver was told not to notify
  f.loop.run_ready();
  CHECK(f.used(0) == kQueueSize + 1);
  CHECK_FALSE(f.running->driver(0).notifications_suppressed());
}

TEST_CASE("a device whose slots are all in use stops") {
  Fixture f;
  f.disk.at_once = false;
  for (unsigned i = 0; i < kQueueSize; ++i) f.add(0);
  f.device.notify(0);
  f.running->stop();
  CHECK(f.used(0) == kQueueSize);
  CHECK(f.running->transport.queue_interrupts[0] == 1);
}

}  // namespace vmmd::devices
