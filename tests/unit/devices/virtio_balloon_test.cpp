#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "devices/virtio/balloon.h"
#include "proto/state.pb.h"
#include "tests/unit/support/fake_device_events.h"
#include "tests/unit/support/fake_reclaim.h"
#include "tests/unit/support/virtio_device.h"

using namespace vmmd;
using namespace vmmd::devices;
using namespace vmmd::testing;

namespace {

constexpr std::uint64_t kPage = VirtioBalloon::kPageSize;
constexpr std::uint64_t kRam = 16 << 20;
constexpr std::uint64_t kHuge = 2 << 20;

using Ranges = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

VirtioBalloon::Config config_of(std::uint64_t size = 0, bool reporting = true) {
  return {.ram_size = kRam, .size = size, .deflate_on_oom = true, .free_page_reporting = reporting};
}

/// Pages none of which is next to another, so that the host is called for each.
std::vector<std::uint32_t> scattered(std::uint32_t count) {
  std::vector<std::uint32_t> pages;
  for (std::uint32_t i = 0; i < count; ++i) pages.push_back(0x200 + 2 * i);
  return pages;
}

struct Balloon {
  explicit Balloon(const VirtioBalloon::Config& config = config_of(), std::uint64_t granularity = kPage,
                   std::uint64_t features = RunningDevice::kAllFeatures & ~kVirtioEventIdx)
      : reclaim(granularity), device(config, loop, reclaim, events), running(device, loop, guest, features) {}

  void send(unsigned queue, const std::vector<std::uint32_t>& pages) {
    const auto size = static_cast<std::uint32_t>(pages.size() * sizeof(std::uint32_t));
    const auto buffer = guest.allocate(size);
    REQUIRE(guest.memory().write(buffer, std::as_bytes(std::span(pages))));
    running.driver(queue).add({{buffer, size}}, {});
    running.notify(queue);
    REQUIRE(running.driver(queue).take_used().size() == 1);
  }
  void inflate(const std::vector<std::uint32_t>& pages) { send(VirtioBalloon::kInflate, pages); }
  /// Sends pages that are nowhere side by side, more than one turn takes; returns before they are all taken.
  auto& begin_to_inflate(unsigned count) {
    running.start();
    const auto pages = scattered(count);
    auto& driver = running.driver(VirtioBalloon::kInflate);
    driver.add({{guest.place(std::as_bytes(std::span(pages))), 4 * count}}, {});
    device.notify(VirtioBalloon::kInflate);
    return driver;
  }
  void deflate(const std::vector<std::uint32_t>& pages) { send(VirtioBalloon::kDeflate, pages); }
  /// The driver's buffer of statistics, sent as Linux does.
  void send_stats(const std::vector<std::pair<std::uint16_t, std::uint64_t>>& stats) {
    std::string bytes;
    for (const auto& [tag, value] : stats) {
      bytes.append(reinterpret_cast<const char*>(&tag), sizeof tag);
      bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    const auto length = static_cast<std::uint32_t>(bytes.size());
    running.driver(VirtioBalloon::kStats).add({{guest.place(bytes), length}}, {});
    running.notify(VirtioBalloon::kStats);
  }
  [[nodiscard]] std::int64_t counter(const std::string& name) {
    const std::int64_t value = device.counters().at(name);
    loop.run_ready();
    return value;
  }

  FakeEventLoop loop;
  FakeGuest guest{kRam};
  FakeReclaim reclaim;
  FakeDeviceEvents events;
  VirtioBalloon device;
  RunningDevice running;
};

}  // namespace

TEST_CASE("virtio-balloon offers what is configured") {
  const Balloon all;
  CHECK(all.device.features() == (VirtioBalloon::kMustTellHost | VirtioBalloon::kStatsVq |
                                  VirtioBalloon::kDeflateOnOom | VirtioBalloon::kPageReporting));
  CHECK(all.device.queue_sizes().size() == 4);
  const Balloon bare({.ram_size = kRam});
  CHECK(bare.device.features() == (VirtioBalloon::kMustTellHost | VirtioBalloon::kStatsVq));
  CHECK(bare.device.queue_sizes().size() == 3);
}

TEST_CASE("virtio-balloon asks for its configured size in pages, for all of RAM at most") {
  Balloon balloon(config_of(0x12'3fff));
  CHECK(balloon.device.read_config(0, 4) == 0x123);
  CHECK(balloon.device.read_config(1, 1) == 0x01);
  CHECK(balloon.device.read_config(8, 4) == 0);
  Balloon greedy(config_of(kRam + kPage));
  CHECK(greedy.device.read_config(0, 4) == kRam / kPage);
}

TEST_CASE("virtio-balloon shows what the driver says it has given") {
  Balloon balloon;
  balloon.device.write_config(4, 4, 0x0123);
  CHECK(balloon.device.read_config(4, 4) == 0x0123);
  CHECK(balloon.device.actual_bytes() == 0x0123 * kPage);
  balloon.device.write_config(5, 1, 0x02);
  CHECK(balloon.device.actual_bytes() == 0x0223 * kPage);
  balloon.device.write_config(4, 4, 0xffffffff);
  CHECK(balloon.device.actual_bytes() == kRam);
}

TEST_CASE("virtio-balloon does not let the driver change what the host asks for") {
  Balloon balloon(config_of(0x5000));
  balloon.device.write_config(0, 8, 0x0000'0007'0000'0009);
  CHECK(balloon.device.read_config(0, 4) == 5);
  CHECK(balloon.device.read_config(4, 4) == 7);
}

TEST_CASE("virtio-balloon gives neighbouring pages to the host at once, in whatever order they come") {
  Balloon balloon;
  balloon.running.start();
  balloon.inflate({0x204, 0x203, 0x202, 0x300, 0x205, 0x203});
  CHECK(balloon.reclaim.discarded == Ranges{{0x202000, 4 * kPage}, {0x300000, kPage}});
  CHECK(balloon.guest.is_dirty(GuestAddress(0x202000), 4 * kPage));
  CHECK(balloon.counter("inflated_pages") == 6);
  CHECK(balloon.counter("discarded_bytes") == 5 * kPage);
}

TEST_CASE("virtio-balloon ignores pages that are not RAM") {
  Balloon balloon;
  balloon.running.start();
  const auto end = static_cast<std::uint32_t>(balloon.guest.end().value / kPage);
  balloon.inflate({end, end - 1, 0xffffffff});
  CHECK(balloon.reclaim.discarded == Ranges{{balloon.guest.end().value - kPage, kPage}});
  CHECK(balloon.counter("ignored_pages") == 2);
}

TEST_CASE("virtio-balloon takes pages in several buffers and batches, and a bounded number of one chain") {
  Balloon balloon;
  balloon.running.start();
  std::vector<std::uint32_t> pages(VirtioBalloon::kMaxPages + 3, 0x200);
  pages[VirtioBalloon::kMaxPages] = 0x201;  // the first that is too many
  pages[1500] = 0x207;
  balloon.inflate(pages);
  CHECK(balloon.counter("inflated_pages") == VirtioBalloon::kMaxPages);
  CHECK(balloon.counter("ignored_pages") == 3);
  CHECK(balloon.reclaim.covers(0x207000));
  CHECK_FALSE(balloon.reclaim.covers(0x201000));
}

namespace {

constexpr std::size_t kMostCallsOfTurn = 512;

}  // namespace

TEST_CASE("virtio-balloon asks the host for little in one turn, however much a chain has, and then goes on") {
  Balloon balloon;
  balloon.running.start();
  const auto pages = scattered(1500);
  balloon.running.driver(VirtioBalloon::kInflate)
      .add({{balloon.guest.place(std::as_bytes(std::span(pages))), 4 * 1500}}, {});
  std::size_t turns = 0;
  balloon.device.notify(VirtioBalloon::kInflate);
  for (std::size_t before = 0;; before = balloon.reclaim.discarded.size()) {
    CHECK(balloon.reclaim.discarded.size() - before <= kMostCallsOfTurn);
    ++turns;
    if (balloon.running.driver(VirtioBalloon::kInflate).used_index() == 1) break;
    bool others_had_their_turn = false;
    balloon.loop.post([&] { others_had_their_turn = true; });
    balloon.loop.run_once();
    CHECK(others_had_their_turn);
  }
  CHECK(turns >= 3);
  CHECK(balloon.reclaim.discarded.size() == 1500);
  CHECK(balloon.reclaim.covers(pages.back() * kPage));
  CHECK(balloon.counter("inflated_pages") == 1500);
}

TEST_CASE("virtio-balloon takes reports of much memory in pieces, and loses nothing between two") {
  constexpr std::uint64_t kLength = 0x1234'5000;
  FakeEventLoop loop;
  FakeGuest guest{1 << 30};
  FakeReclaim reclaim(kPage);
  FakeDeviceEvents events;
  VirtioBalloon device(config_of(), loop, reclaim, events);
  RunningDevice running(device, loop, guest);
  running.start();
  running.driver(VirtioBalloon::kReporting).add({}, {{GuestAddress(0x123'4000), kLength}});
  device.notify(VirtioBalloon::kReporting);
  CHECK(running.driver(VirtioBalloon::kReporting).used_index() == 0);
  loop.run_ready();
  CHECK(running.driver(VirtioBalloon::kReporting).used_index() == 1);
  std::uint64_t next = 0x123'4000;
  for (const auto& [start, length] : reclaim.discarded) {
    CHECK(start == next);
    CHECK(length <= VirtioBalloon::kMostOfCall);
    next = start + length;
    CHECK((next % VirtioBalloon::kMostOfCall == 0 || next == 0x123'4000 + kLength));
  }
  CHECK(next == 0x123'4000 + kLength);
}

TEST_CASE("virtio-balloon that is stopped within a chain takes all of it when it goes on") {
  Balloon balloon;
  auto& driver = balloon.begin_to_inflate(1500);
  balloon.running.stop();
  CHECK(driver.used_index() == 0);
  CHECK(balloon.running.queue(VirtioBalloon::kInflate).state().next_avail == 0);
  balloon.reclaim.discarded.clear();
  balloon.running.start();
  CHECK(driver.used_index() == 1);
  CHECK(balloon.reclaim.discarded.size() == 1500);
}

TEST_CASE("virtio-balloon forgets how far it was in a chain whose queue the driver resets") {
  Balloon balloon;
  auto& driver = balloon.begin_to_inflate(1500);
  balloon.device.stop_queue(VirtioBalloon::kInflate, [] {});
  balloon.loop.run_ready();
  CHECK(driver.used_index() == 0);
  balloon.reclaim.discarded.clear();
  balloon.device.start_queue(VirtioBalloon::kInflate);
  balloon.loop.run_ready();
  CHECK(driver.used_index() == 1);
  CHECK(balloon.reclaim.discarded.size() == 1500);
}

TEST_CASE("virtio-balloon only counts pages that are taken back") {
  Balloon balloon;
  balloon.running.start();
  balloon.deflate({0x200, 0x201});
  CHECK(balloon.reclaim.discarded.empty());
  CHECK(balloon.counter("deflated_pages") == 2);
}

TEST_CASE("virtio-balloon gives reported pages to the host and says nothing was written") {
  Balloon balloon;
  balloon.running.start();
  auto& driver = balloon.running.driver(VirtioBalloon::kReporting);
  driver.add({}, {{GuestAddress(0x400000), 0x40000}, {GuestAddress(0x600000), 0x1000}});
  balloon.running.notify(VirtioBalloon::kReporting);
  CHECK(driver.take_used().front().written == 0);
  CHECK(balloon.reclaim.discarded == Ranges{{0x400000, 0x40000}, {0x600000, 0x1000}});
  CHECK(balloon.counter("reported_bytes") == 0x41000);
  CHECK(balloon.guest.is_dirty(GuestAddress(0x400000), 0x40000));
}

TEST_CASE("virtio-balloon has page reports on queue 2 for a driver without statistics") {
  Balloon balloon(config_of(), kPage, VirtioBalloon::kPageReporting | kVirtioVersion1);
  balloon.running.start();
  auto& driver = balloon.running.driver(2);
  driver.add({}, {{GuestAddress(0x400000), 0x40000}});
  balloon.running.notify(2);
  CHECK(driver.take_used().size() == 1);
  CHECK(balloon.reclaim.discarded == Ranges{{0x400000, 0x40000}});
}

TEST_CASE("virtio-balloon takes no reports from a driver that did not negotiate them") {
  Balloon balloon(config_of(), kPage, VirtioBalloon::kStatsVq | kVirtioVersion1);
  balloon.running.start();
  balloon.running.driver(3).add({}, {{GuestAddress(0x400000), 0x40000}});
  balloon.running.notify(3);
  CHECK(balloon.reclaim.discarded.empty());
}

TEST_CASE("virtio-balloon tells the driver of a new size") {
  Balloon balloon(config_of(kPage));
  balloon.running.start();
  CHECK(balloon.running.transport.config_interrupts == 0);
  balloon.device.resize(0x345000);
  balloon.loop.run_ready();
  CHECK(balloon.running.transport.config_interrupts == 1);
  CHECK(balloon.device.read_config(0, 4) == 0x345);
  CHECK(balloon.counter("target_bytes") == 0x345000);
}

TEST_CASE("virtio-balloon tells of a size that came while it was stopped, in this process or the next") {
  Balloon balloon;
  balloon.running.start();
  balloon.running.stop();
  balloon.device.resize(0x7000);
  balloon.loop.run_ready();
  CHECK(balloon.running.transport.config_interrupts == 0);
  Balloon copy;
  REQUIRE(copy.device.restore(*balloon.device.save()));
  balloon.running.start();
  CHECK(balloon.running.transport.config_interrupts == 1);
  copy.running.start();
  CHECK(copy.running.transport.config_interrupts == 1);
  CHECK(copy.device.read_config(0, 4) == 7);
}

TEST_CASE("virtio-balloon outlived by a new size that is on its way does no harm") {
  FakeEventLoop loop;
  FakeReclaim reclaim(kPage);
  FakeDeviceEvents events;
  auto device = std::make_unique<VirtioBalloon>(config_of(), loop, reclaim, events);
  device->resize(kPage);
  static_cast<void>(device->counters());
  device.reset();
  CHECK(loop.run_once());
}

TEST_CASE("virtio-balloon keeps the driver's statistics, and asks for new ones when they are read") {
  Balloon balloon;
  balloon.running.start();
  CHECK_FALSE(balloon.device.counters().contains("stat_free_memory"));
  balloon.loop.run_ready();
  balloon.send_stats({{4, 0x123456}, {5, 0x1000000}, {99, 1}});
  auto& driver = balloon.running.driver(VirtioBalloon::kStats);
  CHECK(driver.take_used().size() == 1);  // asked for before it came
  balloon.send_stats({{4, 0x123457}, {5, 0x1000000}, {99, 1}});
  CHECK(driver.take_used().empty());
  const auto counters = balloon.device.counters();
  CHECK(counters.at("stat_free_memory") == 0x123457);
  CHECK(counters.at("stat_total_memory") == 0x1000000);
  balloon.loop.run_ready();
  CHECK(driver.take_used().size() == 1);
  CHECK(balloon.running.transport.queue_interrupts[VirtioBalloon::kStats] == 2);
  balloon.send_stats({{4, 0x654321}});
  CHECK(balloon.counter("stat_free_memory") == 0x654321);
}

TEST_CASE("virtio-balloon holds no buffer in flight: statistics survive a stop") {
  Balloon balloon;
  balloon.running.start();
  balloon.send_stats({{9, 0x77}});
  CHECK(balloon.running.queue(VirtioBalloon::kStats).in_flight() == 0);
  balloon.running.stop();
  balloon.running.start();
  CHECK(balloon.counter("stat_hugetlb_failures") == 0x77);
  CHECK(balloon.running.driver(VirtioBalloon::kStats).take_used().size() == 1);
}

TEST_CASE("virtio-balloon reads a bounded number of whole statistics") {
  Balloon balloon;
  balloon.running.start();
  std::vector<std::pair<std::uint16_t, std::uint64_t>> stats(64, {1, 0x11});
  stats.emplace_back(2, 0x22);
  balloon.send_stats(stats);
  const auto counters = balloon.device.counters();
  CHECK(counters.at("stat_swap_out") == 0x11);
  CHECK_FALSE(counters.contains("stat_major_faults"));
}

TEST_CASE("virtio-balloon tells once that pages cannot be given back, and goes on") {
  Balloon balloon;
  balloon.running.start();
  balloon.reclaim.refuse = true;
  balloon.inflate({0x200});
  balloon.inflate({0x201});
  CHECK(balloon.events.failures.size() == 1);
  CHECK(balloon.counter("discard_failures") == 2);
  balloon.reclaim.refuse = false;
  balloon.inflate({0x202});
  CHECK(balloon.reclaim.discarded == Ranges{{0x202000, kPage}});
}

TEST_CASE("virtio-balloon gives a huge page when all of it was given") {
  Balloon balloon(config_of(), kHuge);
  balloon.running.start();
  std::vector<std::uint32_t> pages;
  for (std::uint32_t page = 0x5ff; page >= 0x400; --page) pages.push_back(page);
  const std::uint32_t last = pages.back();
  pages.pop_back();
  balloon.inflate(pages);
  CHECK(balloon.reclaim.discarded.empty());
  balloon.inflate({last});
  CHECK(balloon.reclaim.discarded == Ranges{{0x400000, kHuge}});
}

TEST_CASE("virtio-balloon keeps a huge page of which a part was taken back meanwhile") {
  Balloon balloon(config_of(), kHuge);
  balloon.running.start();
  std::vector<std::uint32_t> pages;
  for (std::uint32_t page = 0x400; page < 0x5ff; ++page) pages.push_back(page);
  balloon.inflate(pages);
  balloon.deflate({0x423});
  balloon.inflate({0x5ff});
  CHECK(balloon.reclaim.discarded.empty());
}

TEST_CASE("virtio-balloon keeps huge pages of a driver that need not tell when it takes pages back") {
  Balloon balloon(config_of(), kHuge, kVirtioVersion1);
  balloon.running.start();
  std::vector<std::uint32_t> pages;
  for (std::uint32_t page = 0x400; page < 0x600; ++page) pages.push_back(page);
  balloon.inflate(pages);
  CHECK(balloon.reclaim.discarded.empty());
}

TEST_CASE("virtio-balloon restores target and actual size into a cold device") {
  Balloon source(config_of(0x123000));
  source.device.write_config(4, 4, 0x0102);
  const UnitState saved = *source.device.save();
  Balloon copy;
  REQUIRE(copy.device.restore(saved));
  CHECK(copy.device.read_config(0, 8) == 0x0000'0102'0000'0123);
  CHECK(copy.device.save()->value == saved.value);
}

TEST_CASE("virtio-balloon refuses a state that asks for more than RAM, and stays as it was") {
  Balloon balloon(config_of(0x5000));
  state::VirtioBalloon message;
  message.set_target_pages(kRam / kPage + 1);
  const auto refused = balloon.device.restore(pack_state(message));
  REQUIRE_FALSE(refused);
  CHECK(refused.error().to_string().find("unit balloon") != std::string::npos);
  CHECK(balloon.device.read_config(0, 4) == 5);
}

TEST_CASE("virtio-balloon that the driver resets is empty; the host's wish stays") {
  Balloon balloon;
  balloon.device.resize(0x6000);
  balloon.device.write_config(4, 4, 0x0102);
  balloon.device.reset();
  CHECK(balloon.device.read_config(0, 8) == 6);
}
