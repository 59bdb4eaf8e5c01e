#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "devices/virtio/pmem.h"
#include "tests/unit/support/fake_device_events.h"
#include "tests/unit/support/virtio_device.h"

using namespace vmmd;
using namespace vmmd::devices;
using namespace vmmd::testing;

namespace {

constexpr std::uint64_t kStart = 0x1'4020'0000;
constexpr std::uint64_t kSize = 0x60'0000;

/// A disk whose flushes end when the test says so.
class SlowDisk final : public Disk {
 public:
  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] bool readonly() const override { return false; }
  [[nodiscard]] bool holds_up_loop() const override { return false; }
  [[nodiscard]] Result<std::uint64_t> size() override { return kSize; }
  void submit(DiskRequest& request) override {
    CHECK(request.op == DiskOp::Flush);
    submitted.push_back(&request);
  }
  void kick() override {
    flushing.insert(flushing.end(), submitted.begin(), submitted.end());
    submitted.clear();
  }
  Status start(EventLoop& /*loop*/, std::function<void()> batch_done) override {
    batch_done_ = std::move(batch_done);
    started = true;
    return {};
  }
  void stop() override { started = false; }

  void finish(int error = 0) {
    for (DiskRequest* request : std::exchange(flushing, {})) {
      request->error = error;
      request->done(*request);
    }
    batch_done_();
  }

  std::vector<DiskRequest*> submitted;
  std::vector<DiskRequest*> flushing;
  bool started = false;

 private:
  const std::string name_ = "/images/pmem";
  std::function<void()> batch_done_;
};

struct Pmem {
  explicit Pmem(bool keeps = true, VirtioPmem::Config config = {"p0", kStart, kSize})
      : device(std::move(config), keeps ? &disk : nullptr, loop, events), running(device, loop, guest) {
    running.start();
  }
  void request(std::uint32_t type = 0) {
    answer = guest.place_value(std::uint32_t{0xEEEE'EEEE});
    running.driver(0).add({{guest.place_value(type), 4}}, {{answer, 4}});
    running.notify(0);
  }
  std::vector<Used> used() { return running.driver(0).take_used(); }
  /// The last request's.
  std::uint32_t result() { return guest.value<std::uint32_t>(answer); }
  std::int64_t counter(const char* name) { return device.counters().at(name); }

  FakeEventLoop loop;
  FakeGuest guest;
  FakeDeviceEvents events;
  SlowDisk disk;
  GuestAddress answer;
  VirtioPmem device;
  RunningDevice running;
};

}  // namespace

TEST_CASE("virtio-pmem tells where its memory is and how large") {
  Pmem pmem;
  CHECK(pmem.device.read_config(0, 8) == kStart);
  CHECK(pmem.device.read_config(8, 8) == kSize);
  CHECK(pmem.device.read_config(4, 4) == kStart >> 32);
  CHECK(pmem.device.read_config(16, 4) == 0);
}

TEST_CASE("virtio-pmem answers a flush when the file is flushed, not before") {
  Pmem pmem;
  pmem.request();
  REQUIRE(pmem.disk.flushing.size() == 1);
  CHECK(pmem.used().empty());
  pmem.disk.finish();
  const auto used = pmem.used();
  REQUIRE(used.size() == 1);
  CHECK(used[0].written == 4);
  CHECK(pmem.result() == 0);
  CHECK(pmem.running.transport.queue_interrupts[0] == 1);
  CHECK(pmem.counter("flushes") == 1);
}

TEST_CASE("virtio-pmem tells the guest that a flush failed, and its owner once until one succeeds") {
  Pmem pmem;
  for (int i = 0; i < 2; ++i) {
    pmem.request();
    pmem.disk.finish(ENOSPC);
    CHECK(pmem.result() == 1);
  }
  REQUIRE(pmem.events.failures.size() == 1);
  CHECK(pmem.events.failures[0] == "pmem:p0: cannot flush /images/pmem: No space left on device");
  pmem.request();
  pmem.disk.finish();
  CHECK(pmem.result() == 0);
  pmem.request();
  pmem.disk.finish(EIO);
  CHECK(pmem.events.failures.size() == 2);
  CHECK(pmem.counter("errors") == 3);
}

TEST_CASE("virtio-pmem that discards writes answers flushes at once") {
  Pmem pmem(/*keeps=*/false);
  for (int i = 0; i < 150; ++i) {
    pmem.request();
    CHECK(pmem.used().size() == 1);
    CHECK(pmem.result() == 0);
  }
  CHECK(pmem.disk.flushing.empty());
}

TEST_CASE("virtio-pmem refuses requests that are none") {
  Pmem pmem;
  pmem.request(1);
  CHECK(pmem.used().size() == 1);
  CHECK(pmem.result() == 1);
  const auto answer = pmem.guest.place_value(std::uint32_t{0xEEEE'EEEE});
  pmem.running.driver(0).add({{pmem.guest.place_value(std::uint16_t{0}), 2}}, {{answer, 4}});
  pmem.running.notify(0);
  CHECK(pmem.used().size() == 1);
  CHECK(pmem.guest.value<std::uint32_t>(answer) == 1);
  pmem.running.driver(0).add({{pmem.guest.place_value(std::uint32_t{0}), 4}}, {});
  pmem.running.notify(0);
  pmem.disk.finish();
  CHECK(pmem.used().front().written == 0);
  CHECK(pmem.counter("invalid") == 2);
  CHECK(pmem.events.failures.empty());
}

TEST_CASE("virtio-pmem stops when its last flush is done, and goes on afterwards") {
  Pmem pmem;
  pmem.request();
  bool stopped = false;
  pmem.device.stop([&] { stopped = true; });
  CHECK_FALSE(stopped);
  pmem.disk.finish();
  CHECK(stopped);
  CHECK_FALSE(pmem.disk.started);
  CHECK(pmem.used().size() == 1);
  pmem.running.start();
  pmem.request();
  pmem.disk.finish();
  CHECK(pmem.used().size() == 1);
}

TEST_CASE("virtio-pmem stops its queue alone") {
  Pmem pmem;
  pmem.request();
  bool stopped = false;
  pmem.device.stop_queue(0, [&] { stopped = true; });
  pmem.request();
  CHECK(pmem.disk.flushing.size() == 1);
  pmem.disk.finish();
  CHECK(stopped);
  CHECK(pmem.disk.started);
  CHECK(pmem.disk.flushing.empty());
  pmem.device.start_queue(0);
  CHECK(pmem.disk.flushing.size() == 1);
  pmem.disk.finish();
}

TEST_CASE("virtio-pmem takes as many flushes as its queue holds, and those that came meanwhile after them") {
  Pmem pmem;
  const auto type = pmem.guest.place_value(std::uint32_t{0});
  const auto answer = pmem.guest.allocate(4);
  for (unsigned i = 0; i < VirtioPmem::kQueueSize / 2; ++i)
    pmem.running.driver(0).add({{type, 4}}, {{answer, 4}});
  pmem.running.notify(0);
  CHECK(pmem.disk.flushing.size() == VirtioPmem::kQueueSize / 2);
  pmem.disk.finish();
  CHECK(pmem.used().size() == VirtioPmem::kQueueSize / 2);
  pmem.request();
  CHECK(pmem.disk.flushing.size() == 1);
  pmem.disk.finish();
}

TEST_CASE("virtio-pmem saves where its memory is, and is not restored elsewhere") {
  Pmem pmem;
  pmem.running.stop();
  const auto saved = pmem.device.save();
  REQUIRE(saved);
  Pmem cold;
  CHECK(cold.device.restore(*saved));
  CHECK(cold.device.save()->value == saved->value);
  for (const auto& config : {VirtioPmem::Config{"p0", kStart + 0x20'0000, kSize},
                             VirtioPmem::Config{"p0", kStart, kSize + 0x20'0000}}) {
    Pmem other(true, config);
    const Status refused = other.device.restore(*saved);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == ErrorCode::BadRequest);
  }
}

TEST_CASE("virtio-pmem reports a driver that breaks the rules once") {
  Pmem pmem;
  pmem.running.driver(0).publish(VirtioPmem::kQueueSize);
  pmem.running.notify(0);
  pmem.running.notify(0);
  CHECK(pmem.running.transport.reasons.size() == 1);
}
