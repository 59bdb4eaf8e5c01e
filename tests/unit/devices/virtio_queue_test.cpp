#include <array>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "devices/virtio/queue.h"
#include "tests/unit/support/virtio_guest.h"

using namespace vmmd;
using namespace vmmd::devices;
using vmmd::testing::FakeDriver;
using vmmd::testing::FakeGuest;
using vmmd::testing::Used;

namespace {

constexpr std::uint16_t kSize = 8;

struct Ring {
  explicit Ring(bool event_index = false, std::uint16_t first = 0) {
    driver.start_at(first);
    REQUIRE(queue.start(guest.memory(), driver.layout(), event_index, true));
  }
  /// The chain that the driver made available must break the queue.
  void check_broken() {
    CHECK_FALSE(queue.pop(chain));
    REQUIRE(queue.broken() != nullptr);
    CHECK_FALSE(queue.pop(chain));
    CHECK(queue.state().next_avail == 0);
    CHECK(queue.in_flight() == 0);
  }

  FakeGuest guest;
  FakeDriver driver{guest, kSize};
  Queue queue;
  Chain chain;
};

struct EventRing : Ring {
  EventRing() : Ring(true) {}
};

std::span<const std::byte> bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

}  // namespace

TEST_CASE_FIXTURE(Ring, "a chain comes with its buffers and goes into the used ring") {
  const auto text = guest.place("request");
  const auto more = guest.place("+body");
  const auto answer = guest.allocate(16);
  const auto head = driver.add({{text, 7}, {more, 5}}, {{answer, 16}});

  REQUIRE(queue.pop(chain));
  CHECK(chain.head == head);
  CHECK(chain.readable_size() == 12);
  CHECK(chain.writable_size() == 16);
  CHECK(chain.writable.front().address == answer);
  CHECK(queue.in_flight() == 1);
  std::array<std::byte, 8> out{};
  REQUIRE(chain.copy_out(3, out));
  CHECK(std::string(reinterpret_cast<const char*>(out.data()), out.size()) == "uest+bod");
  REQUIRE(chain.copy_in(2, bytes("done")));
  CHECK(guest.bytes(answer, 7) == std::string("\0\0done\0", 7));

  queue.push(chain, 6);
  CHECK(driver.take_used().empty());
  CHECK(queue.flush());
  CHECK(driver.take_used() == std::vector<Used>{{head, 6}});
  CHECK(queue.in_flight() == 0);
  CHECK_FALSE(queue.pop(chain));
  CHECK(queue.broken() == nullptr);
}

TEST_CASE_FIXTURE(Ring, "copies that do not fit change nothing") {
  const auto buffer = guest.place("abcdef");
  driver.add({{buffer, 3}}, {{GuestAddress(buffer.value + 3), 3}});
  REQUIRE(queue.pop(chain));
  std::array<std::byte, 4> out{};
  CHECK_FALSE(chain.copy_out(0, out));
  CHECK_FALSE(chain.copy_out(~std::uint64_t{0}, out));
  CHECK_FALSE(chain.copy_in(0, bytes("wxyz")));
  CHECK_FALSE(chain.copy_in(~std::uint64_t{0}, bytes("w")));
  CHECK(guest.bytes(buffer, 6) == "abcdef");
}

TEST_CASE_FIXTURE(Ring, "chains may be used in any order") {
  const auto buffer = guest.allocate(64);
  const auto first = driver.add({}, {{buffer, 8}});
  const auto second = driver.add({}, {{buffer, 9}});
  Chain other;
  REQUIRE(queue.pop(chain));
  REQUIRE(queue.pop(other));
  queue.push(other, 9);
  queue.push(chain, 8);
  CHECK(queue.flush());
  CHECK(driver.take_used() == std::vector<Used>{{second, 9}, {first, 8}});
}

TEST_CASE("indices wrap around") {
  Ring ring(false, 0xfffe);
  const auto buffer = ring.guest.allocate(8);
  for (unsigned i = 0; i < 5; ++i) {
    const auto head = ring.driver.add({}, {{buffer, 8}});
    REQUIRE(ring.queue.pop(ring.chain));
    ring.queue.push(ring.chain, i);
    CHECK(ring.queue.flush());
    CHECK(ring.driver.take_used() == std::vector<Used>{{head, i}});
  }
  CHECK(ring.queue.state().next_used == 3);
}

TEST_CASE_FIXTURE(Ring, "an indirect table is one chain") {
  const auto buffer = guest.allocate(64);
  driver.add_indirect({{buffer, 1}, {buffer, 2}}, {{buffer, 3}});
  REQUIRE(queue.pop(chain));
  CHECK(chain.readable_size() == 3);
  CHECK(chain.writable_size() == 3);
}

TEST_CASE_FIXTURE(Ring, "descriptors may lead over to an indirect table that ends the chain") {
  const auto buffer = guest.allocate(64);
  driver.add({{buffer, 1}, {buffer, 2}}, {});
  const FakeDriver::Descriptor inner{buffer.value, 4, FakeDriver::kWrite, 0};
  driver.set_descriptor(1, {guest.place_value(inner).value, 16, FakeDriver::kIndirect, 0});
  REQUIRE(queue.pop(chain));
  CHECK(chain.readable_size() == 1);
  CHECK(chain.writable_size() == 4);
}

TEST_CASE_FIXTURE(Ring,
                  "chains that were given back come again before others, also to a queue started anew") {
  const auto buffer = guest.allocate(64);
  const auto first = driver.add({}, {{buffer, 8}});
  const auto second = driver.add({}, {{buffer, 9}});
  const auto third = driver.add({{buffer, 10}}, {});
  std::array<Chain, 3> chains;
  for (Chain& each : chains) REQUIRE(queue.pop(each));
  queue.push(chains[1], 9);
  CHECK(queue.flush());
  queue.give_back(chains[2]);
  queue.give_back(chains[0]);
  CHECK(queue.in_flight() == 0);
  const auto fourth = driver.add({}, {{buffer, 11}});
  Queue again;
  REQUIRE(again.start(guest.memory(), queue.state(), false, true));
  CHECK(again.has_available());
  REQUIRE(again.pop(chain));
  CHECK(chain.head == third);
  CHECK(chain.readable_size() == 10);
  again.undo_pop();
  REQUIRE(again.pop(chain));
  CHECK(chain.head == third);
  again.push(chain, 0);
  for (const auto head : {first, fourth}) {
    REQUIRE(again.pop(chain));
    CHECK(chain.head == head);
    again.push(chain, 1);
  }
  CHECK_FALSE(again.pop(chain));
  CHECK(again.in_flight() == 0);
  CHECK(again.flush());
  CHECK(driver.take_used() == std::vector<Used>{{second, 9}, {third, 0}, {first, 1}, {fourth, 1}});
}

TEST_CASE_FIXTURE(Ring, "a chain that was given back and is none any more breaks the queue") {
  driver.add({{guest.allocate(8), 8}}, {});
  REQUIRE(queue.pop(chain));
  queue.give_back(chain);
  driver.set_descriptor(chain.head, {~std::uint64_t{0} - 7, 8, 0, 0});
  CHECK_FALSE(queue.pop(chain));
  CHECK(queue.broken() != nullptr);
}

TEST_CASE_FIXTURE(Ring, "a chain that was given back comes again") {
  const auto buffer = guest.allocate(8);
  const auto head = driver.add({{buffer, 8}}, {});
  REQUIRE(queue.pop(chain));
  queue.undo_pop();
  CHECK(queue.in_flight() == 0);
  CHECK(queue.state().next_avail == 0);
  REQUIRE(queue.pop(chain));
  CHECK(chain.head == head);
}

TEST_CASE_FIXTURE(Ring, "what was written, and both rings, are marked dirty") {
  const auto first = guest.allocate(16);
  const auto second = guest.allocate(16);
  driver.add({}, {{first, 16}, {second, 16}});
  REQUIRE(queue.pop(chain));
  CHECK_FALSE(guest.is_dirty(first, 1));
  queue.push(chain, 20);
  CHECK(guest.is_dirty(first, 16));
  CHECK(guest.is_dirty(second, 4));
  CHECK_FALSE(guest.is_dirty(second, 5));
  const auto used = driver.layout().used.value;
  CHECK(guest.is_dirty(GuestAddress(used + 4), 8));
  CHECK_FALSE(guest.is_dirty(GuestAddress(used + 2), 2));
  static_cast<void>(queue.flush());
  CHECK(guest.is_dirty(GuestAddress(used + 2), 2));
}

TEST_CASE_FIXTURE(Ring, "the driver's flag suppresses interrupts") {
  const auto buffer = guest.allocate(8);
  driver.add({{buffer, 8}}, {});
  driver.suppress_interrupts(true);
  REQUIRE(queue.pop(chain));
  queue.push(chain, 0);
  CHECK_FALSE(queue.flush());
  CHECK(driver.used_index() == 1);
}

TEST_CASE_FIXTURE(Ring, "without new entries there is nothing to interrupt for") {
  CHECK_FALSE(queue.flush());
}

TEST_CASE_FIXTURE(Ring, "notifications are suppressed by the flag, and asked for again without a gap") {
  const auto buffer = guest.allocate(8);
  queue.disable_notifications();
  CHECK(driver.notifications_suppressed());
  CHECK_FALSE(queue.enable_notifications());
  CHECK_FALSE(driver.notifications_suppressed());
  queue.disable_notifications();
  driver.add({{buffer, 8}}, {});
  CHECK(queue.enable_notifications());
}

TEST_CASE_FIXTURE(EventRing, "with event index, an interrupt comes when the used index passes the event") {
  const auto buffer = guest.allocate(8);
  driver.set_used_event(1);  // when entry 1 is used
  for (const bool wanted : {false, true, false}) {
    driver.add({{buffer, 8}}, {});
    REQUIRE(queue.pop(chain));
    queue.push(chain, 0);
    CHECK(queue.flush() == wanted);
  }
}

TEST_CASE_FIXTURE(EventRing, "with event index, a batch that passes the event interrupts once") {
  const auto buffer = guest.allocate(8);
  driver.set_used_event(1);
  for (unsigned i = 0; i < 3; ++i) {
    driver.add({{buffer, 8}}, {});
    REQUIRE(queue.pop(chain));
    queue.push(chain, 0);
  }
  CHECK(queue.flush());
  CHECK_FALSE(queue.flush());
}

TEST_CASE_FIXTURE(EventRing, "what was published early is interrupted for at the flush") {
  const auto buffer = guest.allocate(8);
  driver.set_used_event(0);
  for (unsigned i = 0; i < 2; ++i) {
    driver.add({{buffer, 8}}, {});
    REQUIRE(queue.pop(chain));
    queue.push(chain, 0);
    CHECK(driver.used_index() == i);
    queue.publish();
    CHECK(driver.used_index() == i + 1);
  }
  CHECK(queue.state().next_used == 2);
  CHECK(queue.flush());
  CHECK_FALSE(queue.flush());
}

TEST_CASE_FIXTURE(EventRing, "with event index, notifications are asked for at the next entry") {
  const auto buffer = guest.allocate(8);
  driver.add({{buffer, 8}}, {});
  REQUIRE(queue.pop(chain));
  queue.disable_notifications();
  CHECK_FALSE(driver.notifications_suppressed());
  CHECK_FALSE(queue.enable_notifications());
  CHECK(driver.avail_event() == 1);
}

TEST_CASE_FIXTURE(Ring, "a descriptor index out of range breaks the queue") {
  SUBCASE("as a head") {
    driver.publish(kSize);
  }
  SUBCASE("as a next") {
    driver.set_descriptor(0, {FakeGuest::kStart, 1, FakeDriver::kNext, kSize});
    driver.publish(0);
  }
  check_broken();
}

TEST_CASE_FIXTURE(Ring, "a loop breaks the queue") {
  driver.set_descriptor(0, {FakeGuest::kStart, 1, FakeDriver::kNext, 1});
  driver.set_descriptor(1, {FakeGuest::kStart, 1, FakeDriver::kNext, 0});
  driver.publish(0);
  check_broken();
}

TEST_CASE_FIXTURE(Ring, "a buffer that is not all RAM breaks the queue") {
  const std::uint64_t end = guest.end().value;
  SUBCASE("over the end") {
    driver.set_descriptor(0, {end - 4, 5, 0, 0});
  }
  SUBCASE("around the end of the address space") {
    driver.set_descriptor(0, {~std::uint64_t{0}, 5, 0, 0});
  }
  driver.publish(0);
  check_broken();
}

TEST_CASE_FIXTURE(Ring, "a readable buffer after a writable one breaks the queue") {
  driver.set_descriptor(0, {FakeGuest::kStart, 1, FakeDriver::kNext | FakeDriver::kWrite, 1});
  driver.set_descriptor(1, {FakeGuest::kStart, 1, 0, 0});
  driver.publish(0);
  check_broken();
}

TEST_CASE_FIXTURE(Ring, "an odd indirect descriptor breaks the queue") {
  const FakeDriver::Descriptor inner{FakeGuest::kStart, 4, FakeDriver::kIndirect, 0};
  const std::uint64_t table = guest.place_value(inner).value;
  std::uint32_t length = 16;
  std::uint16_t flags = FakeDriver::kIndirect;
  std::uint64_t address = table;
  SUBCASE("nested") {}
  SUBCASE("the ring's own table") {
    address = driver.layout().descriptors.value;
  }
  SUBCASE("empty") {
    length = 0;
  }
  SUBCASE("not a multiple of 16") {
    length = 24;
  }
  SUBCASE("outside RAM") {
    address = guest.end().value;
  }
  SUBCASE("with a next") {
    flags |= FakeDriver::kNext;
  }
  driver.set_descriptor(0, {address, length, flags, 1});
  driver.publish(0);
  check_broken();
}

TEST_CASE_FIXTURE(Ring, "an indirect chain longer than the queue breaks it") {
  const std::vector<vmmd::testing::Buffer> buffers(kSize + 1, {GuestAddress(FakeGuest::kStart), 1});
  driver.add_indirect(buffers, {});
  check_broken();
}

TEST_CASE("indirect descriptors break a queue that did not negotiate them") {
  FakeGuest guest;
  FakeDriver driver(guest, kSize);
  Queue queue;
  Chain chain;
  REQUIRE(queue.start(guest.memory(), driver.layout(), false, false));
  driver.add_indirect({{guest.allocate(8), 8}}, {});
  CHECK_FALSE(queue.pop(chain));
  CHECK(queue.broken() != nullptr);
}

TEST_CASE_FIXTURE(Ring, "an available index too far ahead breaks the queue") {
  driver.set_avail_index(kSize + 1);
  check_broken();
}

TEST_CASE_FIXTURE(Ring, "what was in flight when the queue broke can still be used") {
  const auto head = driver.add({}, {{guest.allocate(8), 8}});
  REQUIRE(queue.pop(chain));
  driver.publish(kSize);
  Chain other;
  REQUIRE_FALSE(queue.pop(other));
  queue.push(chain, 8);
  CHECK(queue.flush());
  CHECK(driver.take_used() == std::vector<Used>{{head, 8}});
}

TEST_CASE_FIXTURE(Ring, "a stopped queue does nothing") {
  driver.add({{guest.allocate(8), 8}}, {});
  queue.stop();
  CHECK_FALSE(queue.running());
  CHECK_FALSE(queue.pop(chain));
  CHECK_FALSE(queue.has_available());
  CHECK_FALSE(queue.enable_notifications());
}

TEST_CASE("areas that the rings cannot have are refused") {
  FakeGuest guest;
  FakeDriver driver(guest, kSize);
  Queue queue;
  Queue::State state = driver.layout();
  SUBCASE("no size") {
    state.size = 0;
  }
  SUBCASE("not a power of two") {
    state.size = 12;
  }
  SUBCASE("too large") {
    state.size = 2048;
  }
  SUBCASE("descriptors not aligned") {
    state.descriptors.value += 8;
  }
  SUBCASE("driver area not aligned") {
    state.avail.value += 1;
  }
  SUBCASE("device area not aligned") {
    state.used.value += 2;
  }
  SUBCASE("descriptors over the end of RAM") {
    state.descriptors = GuestAddress(guest.end().value - 16 * kSize + 16);
  }
  SUBCASE("the driver's event index over the end of RAM") {
    state.avail = GuestAddress(guest.end().value - (4 + 2 * kSize));
  }
  SUBCASE("the device's event index over the end of RAM") {
    state.used = GuestAddress(guest.end().value - (4 + 8 * kSize));
  }
  CHECK_FALSE(queue.start(guest.memory(), state, true, true));
  CHECK_FALSE(queue.running());
}
