#include <sys/eventfd.h>

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "devices/virtio/pci_transport.h"
#include "proto/state.pb.h"
#include "tests/unit/support/echo_device.h"
#include "tests/unit/support/fake_device_events.h"
#include "tests/unit/support/fake_event_loop.h"
#include "tests/unit/support/fake_interrupt.h"
#include "tests/unit/support/virtio_guest.h"

namespace vmmd::devices {
namespace {

using testing::EchoDevice;

constexpr std::uint64_t kBar = 0x10'0000'8000;
constexpr std::uint64_t kNotify = kBar + 0x3000;

struct FakeIoEvents final : IoEvents {
  Status add(std::uint64_t address, int fd) override {
    if (full) return fail(ErrorCode::Internal, "no more ioeventfds");
    there.emplace(address, fd);
    return {};
  }
  void remove(std::uint64_t address, int fd) override { there.erase({address, fd}); }
  std::set<std::pair<std::uint64_t, int>> there;
  bool full = false;
};

/// A device, its transport and the driver's side of them.
struct Machine {
  explicit Machine(testing::FakeGuest& g) : guest(g) {
    auto made = VirtioPci::create(
        device, {&guest.memory(), &msi, &shared, &mmio, &io_events, {{kBar, 0x10'0000}}, kBar, &events});
    REQUIRE(made);
    pci = std::move(*made);
    resume();
  }
  void resume() {
    pci->resume();
    loop.run_ready();
  }
  void pause() {
    bool paused = false;
    pci->pause([&paused] { paused = true; });
    loop.run_ready();
    REQUIRE(paused);
  }
  std::uint64_t read(std::uint64_t offset, unsigned width) { return mmio.read(kBar + offset, width); }
  void write(std::uint64_t offset, unsigned width, std::uint64_t value) {
    mmio.write(kBar + offset, width, value);
  }
  std::uint64_t status() { return read(20, 1); }
  void set_status(std::uint64_t value) { write(20, 1, value); }

  void set_features(std::uint64_t features) {
    for (unsigned half = 0; half < 2; ++half) {
      write(8, 4, half);
      write(12, 4, features >> (32 * half) & 0xffff'ffff);
    }
  }
  void set_queue(unsigned index, const Queue::State& ring) {
    write(22, 2, index);
    write(24, 2, ring.size);
    write(26, 2, index + 1);
    for (const auto& [at, address] :
         {std::pair{32U, ring.descriptors}, {40U, ring.avail}, {48U, ring.used}}) {
      write(at, 4, address.value & 0xffff'ffff);
      write(at + 4, 4, address.value >> 32);
    }
    write(28, 2, 1);
  }
  /// As far as FEATURES_OK, MSI-X on or off.
  void begin(bool msix = true, std::uint64_t features = kVirtioVersion1 | kVirtioRingReset) {
    pci->write_config(kPciCommand, 2, kPciCommandMemory | kPciCommandBusMaster);
    if (msix) {
      pci->write_config(msix_capability() + 2, 2, 0x8000);
      for (unsigned v = 0; v < 3; ++v) {
        write(0x4000 + 16 * v, 8, 0xfee0'1000 + 16 * v);
        write(0x4008 + 16 * v, 8, 0x4100 + v);
      }
    }
    set_status(1 | 2);
    set_features(features);
    set_status(1 | 2 | 8);
    write(16, 2, 0);
  }
  void drive(bool msix = true) {
    begin(msix);
    set_queue(0, driver.layout());
    set_status(1 | 2 | 4 | 8);
    loop.run_ready();
  }
  unsigned msix_capability() {
    unsigned at = pci->read_config(kPciCapabilities, 1);
    while (pci->read_config(at, 1) != kPciCapMsix) at = pci->read_config(at + 1, 1);
    return at;
  }
  void request() { driver.add({{guest.allocate(8), 8}}, {{guest.allocate(8), 8}}); }
  void notify(unsigned index = 0) {
    mmio.write(kNotify + 4 * index, 2, index);
    loop.run_ready();
  }
  static MsiMessage message(unsigned vector) { return {0xfee0'1000ULL + 16 * vector, 0x4100 + vector}; }

  testing::FakeGuest& guest;
  testing::FakeEventLoop loop;
  testing::FakeMsiSink msi;
  testing::FakeInterruptLine line;
  SharedInterruptLine shared{line};
  Bus mmio{"MMIO"};
  FakeIoEvents io_events;
  testing::FakeDeviceEvents events;
  EchoDevice device{loop};
  std::unique_ptr<VirtioPci> pci;
  testing::FakeDriver driver{guest, 16};
};

struct Fixture {
  testing::FakeGuest guest;
  Machine m{guest};
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "a virtio disk is a modern function with all capabilities") {
  CHECK(m.pci->read_config(0, 4) == 0x1042'1af4);
  CHECK(m.pci->read_config(8, 4) == 0x0180'0001);
  std::vector<std::pair<unsigned, unsigned>> found;  // type, offset
  for (unsigned at = m.pci->read_config(kPciCapabilities, 1); at != 0; at = m.pci->read_config(at + 1, 1)) {
    const bool vendor = m.pci->read_config(at, 1) == kPciCapVendor;
    found.emplace_back(vendor ? m.pci->read_config(at + 3, 1) : 0,
                       vendor ? m.pci->read_config(at + 8, 4) : m.pci->read_config(at + 4, 4));
  }
  CHECK(found == std::vector<std::pair<unsigned, unsigned>>{
                     {1, 0}, {2, 0x3000}, {3, 0x1000}, {4, 0x2000}, {5, 0}, {0, 0x4000}});
}

TEST_CASE_FIXTURE(Fixture, "features that were not offered, or no VERSION_1, are not agreed to") {
  m.begin(true, EchoDevice::kOwnFeature);
  CHECK(m.status() == 3);
  m.set_features(kVirtioVersion1 | 1);
  m.set_status(0xf);
  CHECK(m.status() == 3);
  m.set_features(kVirtioVersion1 | EchoDevice::kOwnFeature);
  m.set_status(0xb);
  CHECK(m.status() == 0xb);
  m.set_features(0);
  m.write(8, 4, 0);
  CHECK(m.read(12, 4) == EchoDevice::kOwnFeature);
}

TEST_CASE_FIXTURE(Fixture, "a request is answered with the vector of its queue") {
  m.drive();
  m.request();
  m.notify();
  CHECK(m.driver.take_used().size() == 1);
  CHECK(m.msi.take() == std::vector<MsiMessage>{Machine::message(1)});
  CHECK(m.pci->counters().at("mmio_notifications") == 1);
}

TEST_CASE_FIXTURE(Fixture, "without MSI-X the line is high until the ISR is read") {
  m.drive(false);
  m.request();
  m.notify();
  CHECK(m.line.level());
  CHECK((m.pci->read_config(kPciStatus, 2) & 8) != 0);
  CHECK(m.read(0x1000, 1) == 1);
  CHECK_FALSE(m.line.level());
  CHECK(m.read(0x1000, 1) == 0);
  CHECK(m.msi.take().empty());
}

TEST_CASE_FIXTURE(Fixture, "ioeventfds follow DRIVER_OK, the BAR and the queue") {
  m.begin();
  m.set_queue(0, m.driver.layout());
  CHECK(m.io_events.there.empty());
  m.set_status(0xf);
  m.loop.run_ready();
  REQUIRE(m.io_events.there.size() == 1);
  CHECK(m.io_events.there.begin()->first == kNotify);
  m.pci->write_config(kPciBar0, 4, 0x1'8000);
  CHECK(m.io_events.there.begin()->first == kNotify + 0x1'0000);
  m.pci->write_config(kPciCommand, 2, 0);
  CHECK(m.io_events.there.empty());
}

TEST_CASE_FIXTURE(Fixture, "a signal of the ioeventfd notifies the queue") {
  m.drive();
  m.request();
  REQUIRE(::eventfd_write(m.io_events.there.begin()->second, 1) == 0);
  m.loop.run_ready();
  CHECK(m.driver.take_used().size() == 1);
  CHECK(m.pci->counters().at("notifications") == 1);
}

TEST_CASE_FIXTURE(Fixture, "a host without ioeventfds gets notifications as writes") {
  m.io_events.full = true;
  m.drive();
  CHECK(m.io_events.there.empty());
  m.request();
  m.notify();
  CHECK(m.driver.take_used().size() == 1);
}

TEST_CASE_FIXTURE(Fixture, "a device that is not bus master stands still, and goes on where it was") {
  m.drive();
  m.pci->write_config(kPciCommand, 2, kPciCommandMemory);
  m.loop.run_ready();
  m.request();
  m.notify();
  CHECK(m.driver.take_used().empty());
  m.pci->write_config(kPciCommand, 2, kPciCommandMemory | kPciCommandBusMaster);
  m.loop.run_ready();
  CHECK(m.driver.take_used().size() == 1);
  CHECK(m.device.starts == 2);
}

TEST_CASE_FIXTURE(Fixture, "a reset shows status 0 only when the last request is done") {
  m.drive();
  m.device.hold = true;
  m.request();
  m.notify();
  m.set_status(0);
  m.loop.run_ready();
  CHECK(m.status() == 0xf);
  m.set_status(0xff);
  m.device.let_go();
  m.loop.run_ready();
  CHECK(m.status() == 0);
  CHECK(m.device.resets == 1);
  CHECK(m.loop.watches() == 0);
  CHECK(m.io_events.there.empty());
  CHECK(m.read(28, 2) == 0);
}

TEST_CASE_FIXTURE(Fixture, "a stopped device is reset at once") {
  m.begin();
  m.set_status(0);
  CHECK(m.status() == 0);
}

TEST_CASE_FIXTURE(Fixture, "one queue is reset and enabled again while the device runs") {
  m.drive();
  m.device.hold = true;
  m.request();
  m.notify();
  m.write(22, 2, 0);
  m.write(58, 2, 1);
  m.loop.run_ready();
  CHECK(m.read(58, 2) == 1);
  m.device.let_go();
  m.loop.run_ready();
  CHECK(m.read(58, 2) == 0);
  CHECK(m.read(28, 2) == 0);
  CHECK(m.read(32, 8) == 0);
  testing::FakeDriver again(guest, 8);
  m.set_queue(0, again.layout());
  m.loop.run_ready();
  CHECK(m.device.queue_starts == 1);
  again.add({{guest.allocate(8), 8}}, {{guest.allocate(8), 8}});
  m.notify();
  CHECK(again.take_used().size() == 1);
  CHECK(m.device.starts == 1);
}

TEST_CASE_FIXTURE(Fixture, "a reset that meets a queue reset waits for both") {
  m.drive();
  m.device.hold = true;
  m.request();
  m.notify();
  m.write(58, 2, 1);
  m.loop.run_ready();
  m.set_status(0);
  m.loop.run_ready();
  CHECK(m.status() == 0xf);
  m.device.let_go();
  m.loop.run_ready();
  CHECK(m.status() == 0);
}

TEST_CASE_FIXTURE(Fixture, "a ring outside RAM needs a reset, and the device never starts") {
  m.begin();
  auto ring = m.driver.layout();
  ring.used = guest.end();
  m.set_queue(0, ring);
  m.set_status(0xf);
  m.loop.run_ready();
  CHECK(m.status() == 0x4f);
  CHECK(m.device.starts == 0);
  CHECK(m.msi.take() == std::vector<MsiMessage>{Machine::message(0)});
}

TEST_CASE_FIXTURE(Fixture, "a driver that breaks the ring gets NEEDS_RESET, and may reset") {
  m.drive();
  m.driver.publish(0x1234);
  m.notify();
  CHECK(m.status() == 0x4f);
  CHECK(m.io_events.there.empty());
  m.set_status(0);
  CHECK(m.status() == 0);
  CHECK(m.pci->counters().at("needs_reset") == 1);
}

TEST_CASE_FIXTURE(Fixture, "who breaks the rules is told of with the reason, and ever more seldom") {
  m.begin();
  auto ring = m.driver.layout();
  ring.used = guest.end();
  for (unsigned times = 1; times <= 20; ++times) {
    m.begin();
    m.set_queue(0, ring);
    m.set_status(0xf);
    m.loop.run_ready();
    CHECK(m.status() == 0x4f);
    m.set_status(0);
    m.loop.run_ready();
  }
  const std::string told = "disk:root: a ring is not aligned or not in RAM, ";
  CHECK(m.events.resets == std::vector{told + "1", told + "2", told + "4", told + "8", told + "16"});
  m.drive();
  m.driver.publish(0x1234);
  for (unsigned i = 0; i < 3; ++i) m.notify();
  CHECK(m.pci->counters().at("needs_reset") == 21);
}

TEST_CASE_FIXTURE(Fixture, "device configuration may interrupt from inside its own write") {
  m.drive();
  CHECK(m.read(0x2004, 4) == 0x64);
  m.write(0x2008, 4, 0x1122'3344);
  CHECK(m.device.config.at(8) == 0x1122'3344);
  CHECK(m.read(21, 1) == 1);
  CHECK(m.msi.take() == std::vector<MsiMessage>{Machine::message(0)});
}

TEST_CASE_FIXTURE(Fixture, "the configuration window reaches the BAR while it is not mapped") {
  unsigned at = m.pci->read_config(kPciCapabilities, 1);
  while (m.pci->read_config(at + 3, 1) != 5) at = m.pci->read_config(at + 1, 1);
  m.pci->write_config(at + 8, 4, 0x2014);
  m.pci->write_config(at + 12, 4, 4);
  CHECK(m.pci->read_config(at + 16, 4) == 0x74);
  m.pci->write_config(at + 8, 4, 20);
  m.pci->write_config(at + 12, 4, 1);
  m.pci->write_config(at + 16, 4, 3);
  CHECK(m.pci->read_config(at + 16, 4) == 3);
  m.pci->write_config(at + 8, 4, 0x8000);
  m.pci->write_config(at + 16, 4, 0x5a);
  CHECK(m.pci->read_config(at + 16, 4) == 0x5a);
}

TEST_CASE_FIXTURE(Fixture, "a cold transport goes on where the saved one was, in every field") {
  m.drive();
  m.request();
  m.notify();
  m.write(0, 4, 0x1111'0001);
  m.write(8, 4, 0x2222'0001);
  m.write(0x2008, 4, 1);
  m.pci->write_config(m.msix_capability() + 2, 2, 0);
  m.request();
  m.notify();  // ISR
  m.pci->write_config(m.msix_capability() + 2, 2, 0x8000);
  m.write(0x4000 + 16 + 12, 4, 1);
  m.request();
  m.notify();  // pending
  m.write(22, 2, 1);
  CHECK_FALSE(m.pci->save());
  m.pause();
  const auto saved = m.pci->save();
  REQUIRE(saved);
  state::VirtioPci message;
  REQUIRE(message.ParseFromString(saved->value));
  CHECK(message.isr() == 1);
  CHECK(message.queues(0).next() == 3);
  CHECK(message.queues(0).vector() == 1);
  CHECK(message.msix().vectors(1).pending());
  CHECK(message.config_generation() == 1);
  CHECK(message.queue_select() == 1);
  CHECK(message.device_feature_select() == 0x1111'0001);
  CHECK(message.driver_feature_select() == 0x2222'0001);
  Machine cold(guest);
  cold.pause();
  REQUIRE(cold.pci->restore(*saved));
  CHECK(cold.pci->save()->value == saved->value);
  CHECK(cold.msi.take().empty());
  m.request();  // in the ring that both know
  cold.resume();
  CHECK(m.driver.take_used().size() == 4);
  cold.write(0x4000 + 16 + 12, 4, 0);
  CHECK(cold.msi.take() == std::vector<MsiMessage>{Machine::message(1)});
}

TEST_CASE_FIXTURE(Fixture, "requests that a device gave back are saved, and begun again by a cold one") {
  m.drive();
  m.device.hold = m.device.gives_back = true;
  m.request();
  m.request();
  m.notify();
  m.pause();
  CHECK(m.pci->waits_for_host());
  CHECK(m.driver.take_used().empty());
  const auto saved = m.pci->save();
  REQUIRE(saved);
  Machine cold(guest);
  cold.pause();
  CHECK_FALSE(cold.pci->waits_for_host());
  REQUIRE(cold.pci->restore(*saved));
  CHECK(cold.pci->waits_for_host());
  CHECK(cold.pci->save()->value == saved->value);
  cold.resume();
  CHECK(m.driver.take_used().size() == 2);
  cold.pause();
  CHECK_FALSE(cold.pci->waits_for_host());
}

TEST_CASE_FIXTURE(Fixture, "a state that no transport of this device could have saved changes nothing") {
  m.drive();
  m.pause();
  const auto before = m.pci->save();
  REQUIRE(before);
  state::VirtioPci good;
  REQUIRE(good.ParseFromString(before->value));
  const auto refused = [&](auto spoil) {
    state::VirtioPci bad = good;
    spoil(bad);
    const Status status = m.pci->restore(pack_state(bad));
    REQUIRE_FALSE(status);
    CHECK(status.error().code == ErrorCode::BadRequest);
    CHECK(m.pci->save()->value == before->value);
  };
  refused([](auto& b) { b.set_status(0x10f); });
  refused([](auto& b) { b.set_status(4); });
  refused([](auto& b) { b.set_driver_features(kVirtioVersion1 | 1); });
  refused([](auto& b) { b.set_driver_features(0); });
  refused([](auto& b) { b.set_config_vector(3); });
  refused([](auto& b) { b.set_config_generation(256); });
  refused([](auto& b) { b.set_queue_select(0x1'0000); });
  refused([](auto& b) { b.set_isr(4); });
  refused([](auto& b) { b.mutable_queues()->RemoveLast(); });
  refused([](auto& b) { b.mutable_queues(0)->set_size(32); });
  refused([](auto& b) { b.mutable_queues(0)->set_size(3); });
  refused([](auto& b) { b.mutable_queues(0)->set_next(0x1'0000); });
  refused([](auto& b) { b.mutable_queues(0)->set_vector(3); });
  refused([](auto& b) { b.mutable_queues(0)->add_returned(16); });
  refused([](auto& b) {
    for (unsigned i = 0; i < 17; ++i) b.mutable_queues(0)->add_returned(i % 16);
  });
  refused([](auto& b) { b.mutable_queues(0)->set_used(0xffff'ffff'ffff'fffc); });
  refused([](auto& b) { b.mutable_msix()->clear_vectors(); });
  refused([](auto& b) { (*b.mutable_config_space())[2] = 0x41; });
}

TEST_CASE_FIXTURE(Fixture, "a pause waits for requests, and resets wished meanwhile are done by its end") {
  m.drive();
  m.device.hold = true;
  m.request();
  m.notify();
  bool paused = false;
  m.pci->pause([&paused] { paused = true; });
  m.loop.run_ready();
  CHECK_FALSE(paused);
  m.set_status(0);
  m.device.let_go();
  m.loop.run_ready();
  CHECK(paused);
  CHECK(m.status() == 0);
  CHECK(m.pci->save().has_value());
}

TEST_CASE_FIXTURE(Fixture, "power-on state: no BAR, no driver, no interrupt") {
  m.drive(false);
  m.request();
  m.notify();
  m.pause();
  m.pci->reset();
  CHECK_FALSE(m.line.level());
  CHECK(m.mmio.regions().empty());
  CHECK(m.io_events.there.empty());
  m.pci->write_config(kPciCommand, 2, kPciCommandMemory);
  CHECK(m.status() == 0);
}

}  // namespace vmmd::devices
