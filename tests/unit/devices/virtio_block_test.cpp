#include <array>
#include <cerrno>
#include <fstream>
#include <string>
#include <utility>

#include <doctest/doctest.h>

#include "devices/storage/raw_file.h"
#include "devices/virtio/block.h"
#include "tests/unit/support/fake_clock.h"
#include "tests/unit/support/fake_device_events.h"
#include "tests/unit/support/temp_dir.h"
#include "tests/unit/support/virtio_device.h"

namespace vmmd::devices {
namespace {

using testing::Buffer;

struct Header {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};

constexpr std::uint64_t kSize = 64 * 512;

/// Does nothing, and says of each request that it failed with `error`, if that is not 0.
struct FailingDisk final : Disk {
  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] bool readonly() const override { return false; }
  [[nodiscard]] bool holds_up_loop() const override { return false; }
  [[nodiscard]] Result<std::uint64_t> size() override { return kSize; }
  void submit(DiskRequest& request) override { waiting.push_back(&request); }
  void kick() override {
    if (waiting.empty()) return;
    loop_->post([this] {
      for (DiskRequest* request : std::exchange(waiting, {})) {
        request->error = error;
        request->done(*request);
      }
      done_();
    });
  }
  Status start(EventLoop& loop, std::function<void()> done) override {
    loop_ = &loop;
    done_ = std::move(done);
    return {};
  }
  void stop() override {}
  int error = 0;
  std::vector<DiskRequest*> waiting;
  std::string name_ = "/images/a";
  EventLoop* loop_ = nullptr;
  std::function<void()> done_;
};

/// A disk whose sector n is filled with the letter 'a' + n % 26, under a device of two queues.
struct Fixture {
  explicit Fixture(bool io_uring = true, bool readonly = false,
                   std::shared_ptr<RateLimiter> limiter = nullptr)
      : path(dir / "disk") {
    std::ofstream out(path, std::ios::binary);
    for (unsigned n = 0; n < 64; ++n) out << std::string(512, static_cast<char>('a' + n % 26));
    out.close();
    auto opened = RawFile::open(path, {.readonly = readonly, .use_io_uring = io_uring});
    REQUIRE(opened);
    disk = std::move(*opened);
    start_anew({.id = "root", .serial = "serial-1", .queues = 2, .queue_size = 16}, *disk,
               std::move(limiter));
  }

  /// A device of its own configuration, or on a disk that outlives it, in place of the one before.
  void start_anew(VirtioBlock::Config config, Disk& on, std::shared_ptr<RateLimiter> limiter = nullptr) {
    running.reset();
    device.emplace(std::move(config), on, kSize, loop, std::move(limiter), events);
    running.emplace(*device, loop, guest);
    running->start();
  }

  /// The status byte of one request, once it is used.
  std::uint8_t run(std::uint32_t type, std::uint64_t sector, const std::vector<Buffer>& out,
                   const std::vector<Buffer>& in, unsigned queue = 0) {
    std::vector<Buffer> readable{{guest.place_value(Header{type, 0, sector}), sizeof(Header)}};
    readable.insert(readable.end(), out.begin(), out.end());
    std::vector<Buffer> writable = in;
    const auto status = guest.place_value(std::uint8_t{0xEE});
    writable.push_back({status, 1});
    auto& driver = running->driver(queue);
    driver.add(readable, writable);
    const auto before = driver.used_index();
    running->notify(queue);
    REQUIRE(loop.run_until([&] { return driver.used_index() != before; }));
    static_cast<void>(driver.take_used());
    return guest.value<std::uint8_t>(status);
  }
  std::string on_disk(std::uint64_t sector, std::size_t length) const {
    std::ifstream in(path, std::ios::binary);
    in.seekg(static_cast<std::streamoff>(sector * 512));
    std::string bytes(length, '?');
    in.read(bytes.data(), static_cast<std::streamsize>(length));
    return bytes;
  }

  testing::TempDir dir;
  std::filesystem::path path;
  testing::FakeClock clock;
  testing::FakeEventLoop loop;
  testing::FakeGuest guest;
  testing::FakeDeviceEvents events;
  std::unique_ptr<RawFile> disk;
  std::optional<VirtioBlock> device;
  std::optional<testing::RunningDevice> running;
};

void read_and_write(Fixture& f) {
  const auto in = f.guest.allocate(1024);
  CHECK(f.run(0, 3, {}, {{in, 700}, {GuestAddress(in.value + 700), 324}}) == 0);
  CHECK(f.guest.bytes(in, 1024) == std::string(512, 'd') + std::string(512, 'e'));
  CHECK(f.guest.is_dirty(in, 700));
  const auto out = f.guest.place(std::string(500, 'X') + std::string(524, 'Y'));
  CHECK(f.run(1, 10, {{out, 100}, {GuestAddress(out.value + 100), 924}}, {}, 1) == 0);
  CHECK(f.run(4, 0, {}, {}) == 0);
  CHECK(f.on_disk(10, 1024) == std::string(500, 'X') + std::string(524, 'Y'));
  CHECK(f.on_disk(12, 1) == "m");
}

TEST_CASE("a virtio disk reads, writes and flushes by io_uring") {
  Fixture f;
  read_and_write(f);
}

TEST_CASE("a virtio disk reads, writes and flushes without io_uring") {
  Fixture f(/*io_uring=*/false);
  CHECK_FALSE(f.disk->uses_io_uring());
  read_and_write(f);
}

TEST_CASE("requests beyond the disk's end, or of odd length, are errors and change nothing") {
  Fixture f;
  const auto buffer = f.guest.place(std::string(1024, 'Z'));
  CHECK(f.run(1, 63, {{buffer, 1024}}, {}) == 1);
  CHECK(f.run(1, 64, {{buffer, 512}}, {}) == 1);
  CHECK(f.run(1, ~std::uint64_t{0}, {{buffer, 512}}, {}) == 1);
  CHECK(f.run(1, 0, {{buffer, 511}}, {}) == 1);
  CHECK(f.run(0, 0, {}, {}) == 1);
  CHECK(f.on_disk(63, 512) == std::string(512, 'a' + 63 % 26));
  CHECK(f.device->counters().at("invalid") == 5);
}

TEST_CASE("unknown requests are unsupported") {
  Fixture f;
  CHECK(f.run(99, 0, {}, {}) == 2);
}

TEST_CASE("a chain without room for the answer is used and breaks nothing") {
  Fixture f;
  f.running->driver(0).add({{f.guest.place_value(Header{0, 0, 0}), sizeof(Header)}}, {});
  f.running->notify(0);
  CHECK(f.running->driver(0).take_used().size() == 1);
  CHECK(f.run(4, 0, {}, {}) == 0);
  CHECK(f.running->transport.reasons.empty());
}

TEST_CASE("the serial number is padded with zeroes") {
  Fixture f;
  const auto in = f.guest.place(std::string(20, '?'));
  CHECK(f.run(8, 0, {}, {{in, 20}}) == 0);
  CHECK(f.guest.bytes(in, 20) == std::string("serial-1") + std::string(12, '\0'));
}

TEST_CASE("discard and write zeroes leave zeroes in their ranges alone") {
  Fixture f;
  struct Range {
    std::uint64_t sector;
    std::uint32_t sectors;
    std::uint32_t flags;
  };
  const auto two = f.guest.place_value(std::array<Range, 2>{Range{8, 8, 0}, Range{24, 8, 1}});
  CHECK(f.run(13, 0, {{two, 32}}, {}) == 0);
  CHECK(f.on_disk(7, 1) == "h");
  CHECK(f.on_disk(8, 4096) == std::string(4096, '\0'));
  CHECK(f.on_disk(16, 1) == "q");
  CHECK(f.on_disk(24, 4096) == std::string(4096, '\0'));
  const auto beyond = f.guest.place_value(Range{60, 5, 0});
  CHECK(f.run(11, 0, {{beyond, 16}}, {}) == 1);
  const auto flags = f.guest.place_value(Range{0, 8, 2});
  CHECK(f.run(13, 0, {{flags, 16}}, {}) == 2);
  CHECK(f.on_disk(0, 1) == "a");
}

TEST_CASE("a read-only disk offers RO and refuses writes") {
  Fixture f(true, /*readonly=*/true);
  CHECK((f.device->features() & 1U << 5) != 0);
  const auto buffer = f.guest.place(std::string(512, 'Z'));
  CHECK(f.run(1, 0, {{buffer, 512}}, {}) == 1);
  CHECK(f.on_disk(0, 1) == "a");
}

TEST_CASE("a file that shrank answers with errors, which its owner is told of once") {
  Fixture f;
  std::filesystem::resize_file(f.path, 512);
  const auto in = f.guest.allocate(512);
  CHECK(f.run(0, 5, {}, {{in, 512}}) == 1);
  CHECK(f.run(0, 6, {}, {{in, 512}}) == 1);
  CHECK(f.device->counters().at("errors") == 2);
  CHECK(f.events.failures.size() == 1);
}

TEST_CASE(
    "each kind of request that fails on the host fails in the guest, and a long quiet is over with a new "
    "event") {
  FailingDisk disk;
  Fixture f;
  f.start_anew({.id = "root", .serial = {}, .queues = 2, .queue_size = 16}, disk);
  const auto data = f.guest.allocate(512);
  const auto range = f.guest.place_value(std::array<std::uint32_t, 4>{0, 0, 8, 0});
  const auto write = [&] { return f.run(1, 0, {{data, 512}}, {}); };
  disk.error = EIO;
  CHECK(f.run(0, 0, {}, {{data, 512}}) == 1);
  CHECK(write() == 1);
  CHECK(f.run(4, 0, {}, {}) == 1);
  CHECK(f.run(11, 0, {{range, 16}}, {}) == 1);
  CHECK(f.run(13, 0, {{range, 16}}, {}) == 1);
  CHECK(f.device->counters().at("errors") == 5);
  CHECK(f.events.failures == std::vector<std::string>{"disk:root: /images/a: Input/output error"});
  disk.error = 0;
  for (unsigned i = 0; i < 1023; ++i) REQUIRE(write() == 0);
  disk.error = ENOSPC;
  CHECK(write() == 1);
  CHECK(f.events.failures.size() == 1);
  disk.error = 0;
  for (unsigned i = 0; i < 1024; ++i) REQUIRE(write() == 0);
  disk.error = ENOSPC;
  CHECK(write() == 1);
  CHECK(f.events.failures.back() == "disk:root: /images/a: No space left on device");
  CHECK(f.events.failures.size() == 2);
  f.running.reset();
  f.device.reset();
}

TEST_CASE("a write without room on the host is kept over a stop, if that is wished, and tried again") {
  FailingDisk disk;
  Fixture f;
  f.start_anew(
      {.id = "root", .serial = {}, .queues = 2, .queue_size = 16, .discard = true, .wait_when_full = true},
      disk);
  const auto data = f.guest.allocate(512);
  const auto range = f.guest.place_value(std::array<std::uint32_t, 4>{0, 0, 8, 0});
  const auto ask = [&](std::uint32_t type, const Buffer& out) {
    const auto status = f.guest.place_value(std::uint8_t{0xEE});
    f.running->driver(1).add({{f.guest.place_value(Header{type, 0, 0}), sizeof(Header)}, out}, {{status, 1}});
    f.running->notify(1);
    return status;
  };
  disk.error = ENOSPC;
  const auto write = ask(1, {data, 512});
  disk.error = EDQUOT;
  const auto zeroes = ask(13, {range, 16});
  disk.error = 0;
  CHECK(f.run(0, 0, {}, {{data, 512}}, 1) == 0);  // others are served, also before it
  disk.error = ENOSPC;
  CHECK(f.run(4, 0, {}, {}, 1) == 1);  // a flush is not what can be tried again
  CHECK(f.events.full == std::vector<std::string>{"disk:root: /images/a: No space left on device"});
  CHECK(f.device->counters().at("held") == 2);

  for (unsigned round = 2; round <= 3; ++round) {  // still full
    f.running->stop();
    CHECK(f.running->queue(1).in_flight() == 0);
    CHECK(f.running->queue(1).state().returned.size() == 2);
    f.running->start();
    CHECK(f.events.full.size() == round);
  }
  f.running->stop();
  disk.error = 0;
  f.running->start();
  CHECK(f.guest.value<std::uint8_t>(write) == 0);
  CHECK(f.guest.value<std::uint8_t>(zeroes) == 0);
  CHECK(f.running->driver(1).take_used().size() == 2);
  CHECK(f.running->queue(1).state().returned.empty());
  CHECK(f.device->counters().at("errors") == 1);
  f.running.reset();
  f.device.reset();
}

TEST_CASE("a queue is reset without waiting for room") {
  FailingDisk disk;
  Fixture f;
  f.start_anew(
      {.id = "root", .serial = {}, .queues = 2, .queue_size = 16, .discard = true, .wait_when_full = true},
      disk);
  disk.error = ENOSPC;
  f.running->driver(1).add(
      {{f.guest.place_value(Header{1, 0, 0}), sizeof(Header)}, {f.guest.allocate(512), 512}},
      {{f.guest.allocate(1), 1}});
  f.running->notify(1);
  REQUIRE(f.running->queue(1).in_flight() == 1);
  bool stopped = false;
  f.device->stop_queue(1, [&stopped] { stopped = true; });
  CHECK(stopped);
  CHECK(f.running->queue(1).in_flight() == 0);
  CHECK(f.running->driver(1).take_used().empty());
  f.running.reset();
  f.device.reset();
}

TEST_CASE("a disk that is not sparse offers no discard, and takes none") {
  Fixture f;
  f.start_anew({.id = "root", .serial = {}, .queues = 2, .queue_size = 16, .discard = false}, *f.disk);
  CHECK((f.device->features() & 1U << 13) == 0);
  CHECK(f.device->read_config(36, 4) == 0);
  const auto range = f.guest.place_value(std::array<std::uint32_t, 4>{0, 0, 8, 0});
  CHECK(f.run(11, 0, {{range, 16}}, {}) == 2);
  CHECK(f.on_disk(0, 1) == "a");
}

TEST_CASE("two programs do not write one image, and may read it together") {
  Fixture f;
  const auto second = RawFile::open(f.path, {});
  REQUIRE_FALSE(second);
  CHECK(second.error().code == ErrorCode::Conflict);
  CHECK(second.error().to_string().find(f.path) != std::string::npos);
  Fixture g(true, /*readonly=*/true);
  CHECK(RawFile::open(g.path, {.readonly = true}));
}

TEST_CASE("stopping waits for every request, and what came meanwhile is found at the start") {
  Fixture f;
  auto& driver = f.running->driver(0);
  const auto in = f.guest.allocate(512 * 4);
  for (unsigned i = 0; i < 4; ++i) {
    driver.add({{f.guest.place_value(Header{0, 0, i}), sizeof(Header)}},
               {{GuestAddress(in.value + i * 512), 512}, {f.guest.allocate(1), 1}});
  }
  f.device->notify(0);
  f.running->stop();
  CHECK(driver.take_used().size() == 4);
  CHECK(f.guest.bytes(GuestAddress(in.value + 3 * 512), 512) == std::string(512, 'd'));
  driver.add({{f.guest.place_value(Header{4, 0, 0}), sizeof(Header)}}, {{f.guest.allocate(1), 1}});
  f.running->start();
  REQUIRE(f.loop.run_until([&] { return driver.used_index() == 5; }));
}

TEST_CASE("a disk that grew is shown to the guest with an interrupt") {
  Fixture f;
  std::filesystem::resize_file(f.path, kSize + 512 * 7);
  f.device->host_end_changed();
  CHECK(f.device->read_config(0, 8) == 71);
  CHECK(f.running->transport.config_interrupts == 1);
}

TEST_CASE("a disk's state goes into a cold device, unless its disk is smaller") {
  Fixture f;
  f.running->stop();
  const auto saved = f.device->save();
  REQUIRE(saved);
  VirtioBlock cold({.id = "root", .serial = {}, .queues = 2, .queue_size = 16}, *f.disk, kSize + 512, f.loop,
                   nullptr, f.events);
  REQUIRE(cold.restore(*saved));
  CHECK(cold.read_config(0, 8) == 64);
  VirtioBlock small({.id = "root", .serial = {}, .queues = 2, .queue_size = 16}, *f.disk, kSize - 512, f.loop,
                    nullptr, f.events);
  CHECK_FALSE(small.restore(*saved));
  f.running->start();
}

}  // namespace
}  // namespace vmmd::devices
