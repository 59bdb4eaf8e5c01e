#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <string>

#include <doctest/doctest.h>

#include "devices/virtio/rng.h"
#include "tests/unit/support/fake_device_events.h"
#include "tests/unit/support/temp_dir.h"
#include "tests/unit/support/virtio_device.h"

using namespace vmmd;
using namespace vmmd::devices;
using namespace vmmd::testing;

namespace {

struct Rng {
  explicit Rng(const std::string& path = EntropySource::kSystem) : source(*EntropySource::open(path)) {}

  /// The answer to a request of `length` bytes; empty while there is none.
  std::string request(std::uint32_t length) {
    const auto buffer = guest.allocate(length);
    running.driver(0).add({}, {{buffer, length}});
    running.notify(0);
    const auto used = running.driver(0).take_used();
    return used.empty() ? "" : guest.bytes(buffer, used.front().written);
  }

  FakeEventLoop loop;
  FakeGuest guest;
  FakeDeviceEvents events;
  EntropySource source;
  VirtioRng device{loop, source, events};
  RunningDevice running{device, loop, guest};
};

struct Fifo {
  Fifo() : path(dir / "source") {
    REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
    // Both ends, so that opening neither waits nor meets an end of file.
    writer.reset(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    REQUIRE(writer);
  }
  void put(std::string_view text) const {
    REQUIRE(::write(writer.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  }
  TempDir dir;
  std::string path;
  UniqueFd writer;
};

}  // namespace

TEST_CASE("virtio-rng fills the whole buffer with the host's random bytes") {
  Rng rng;
  rng.running.start();
  const std::string first = rng.request(64);
  CHECK(first.size() == 64);
  CHECK(first != std::string(64, '\0'));
  CHECK(first != rng.request(64));
  CHECK(rng.running.transport.queue_interrupts[0] == 2);
  CHECK(rng.device.counters().at("requests") == 2);
  CHECK(rng.device.counters().at("bytes") == 128);
}

TEST_CASE("virtio-rng fills several buffers of one request and marks them dirty") {
  Rng rng;
  rng.running.start();
  const auto one = rng.guest.allocate(40);
  const auto two = rng.guest.allocate(24);
  rng.running.driver(0).add({}, {{one, 40}, {two, 24}});
  rng.running.notify(0);
  CHECK(rng.running.driver(0).take_used().front().written == 64);
  CHECK(rng.guest.bytes(two, 24) != std::string(24, '\0'));
  CHECK(rng.guest.is_dirty(one, 40));
  CHECK(rng.guest.is_dirty(two, 24));
}

TEST_CASE("virtio-rng answers a large request with 64 KiB") {
  Rng rng;
  rng.running.start();
  CHECK(rng.request(200'000).size() == VirtioRng::kMaxRequest);
}

TEST_CASE("virtio-rng gives a request without room back, and goes on") {
  Rng rng;
  rng.running.start();
  const auto text = rng.guest.place("no room");
  rng.running.driver(0).add({{text, 7}}, {});
  rng.running.notify(0);
  CHECK(rng.running.driver(0).take_used().front().written == 0);
  CHECK(rng.request(16).size() == 16);
}

TEST_CASE("virtio-rng serves more requests than one turn of the loop handles") {
  Rng rng;
  rng.running.start();
  const auto buffer = rng.guest.allocate(8);
  for (int i = 0; i < 200; ++i) rng.running.driver(0).add({}, {{buffer, 8}});
  rng.running.notify(0);
  CHECK(rng.running.driver(0).take_used().size() == 200);
}

TEST_CASE("virtio-rng fills a bounded amount in one turn of the loop, and the rest later") {
  Rng rng;
  rng.running.start();
  const auto buffer = rng.guest.allocate(VirtioRng::kMaxRequest);
  for (int i = 0; i < 40; ++i) rng.running.driver(0).add({}, {{buffer, VirtioRng::kMaxRequest}});
  rng.device.notify(0);
  CHECK(rng.running.driver(0).take_used().size() == VirtioRng::kTurn / VirtioRng::kMaxRequest);
  rng.loop.run_ready();
  CHECK(rng.running.driver(0).take_used().size() == 40 - VirtioRng::kTurn / VirtioRng::kMaxRequest);
}

TEST_CASE("virtio-rng takes its bytes from a file, and waits while it has none") {
  const Fifo fifo;
  Rng rng(fifo.path);
  rng.running.start();
  CHECK(rng.request(10).empty());
  CHECK(rng.running.queue(0).in_flight() == 0);
  CHECK(rng.loop.watches() == 1);
  fifo.put("0123456789abcdef");
  rng.loop.run_ready();
  CHECK(rng.running.driver(0).take_used().front().written == 10);
  CHECK(rng.loop.watches() == 0);
  CHECK(rng.request(10) == "abcdef");
}

TEST_CASE("virtio-rng stops while a request waits, and answers it afterwards") {
  const Fifo fifo;
  Rng rng(fifo.path);
  rng.running.start();
  CHECK(rng.request(10).empty());
  rng.running.stop();
  CHECK(rng.loop.watches() == 0);
  fifo.put("0123");
  rng.running.start();
  CHECK(rng.running.driver(0).take_used().front().written == 4);
}

TEST_CASE("virtio-rng replaces a source that ends by the host's generator, and says so once") {
  const TempDir dir;
  const std::string path = dir / "short";
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  REQUIRE(::write(file.get(), "seed", 4) == 4);
  Rng rng(path);
  rng.running.start();
  CHECK(rng.request(12).substr(0, 4) == "seed");
  CHECK(rng.request(12).size() == 12);
  REQUIRE(rng.events.failures.size() == 1);
  CHECK(rng.events.failures[0] ==
        "rng: " + path + " has ended; from now on the host's getrandom serves the guest");
  CHECK(rng.device.counters().at("source_failures") == 1);
}

TEST_CASE("virtio-rng refuses a source that it cannot open") {
  const auto missing = EntropySource::open("/nonexistent/source");
  REQUIRE_FALSE(missing);
  CHECK(missing.error().to_string().find("/nonexistent/source") != std::string::npos);
  CHECK_FALSE(EntropySource::open("/tmp"));
}

TEST_CASE("virtio-rng reports a driver that breaks the rules once") {
  Rng rng;
  rng.running.start();
  rng.running.driver(0).publish(VirtioRng::kQueueSize);
  rng.running.notify(0);
  rng.running.notify(0);
  CHECK(rng.running.transport.reasons.size() == 1);
}

TEST_CASE("virtio-rng has nothing to save and takes what it saved") {
  Rng rng;
  const auto saved = rng.device.save();
  REQUIRE(saved);
  Rng cold;
  CHECK(cold.device.restore(*saved));
  UnitState foreign = *saved;
  foreign.type_url = "type.googleapis.com/vmmd.state.Serial";
  CHECK_FALSE(cold.device.restore(foreign));
}
