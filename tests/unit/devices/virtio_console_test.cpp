#include <string>

#include <doctest/doctest.h>

#include "devices/virtio/console.h"
#include "proto/state.pb.h"
#include "tests/unit/support/fake_char_backend.h"
#include "tests/unit/support/virtio_device.h"

using namespace vmmd;
using namespace vmmd::devices;
using namespace vmmd::testing;

namespace {

struct Console {
  /// The driver puts up a buffer for input.
  GuestAddress offer(std::uint32_t length) {
    const auto buffer = guest.allocate(length);
    running.driver(VirtioConsole::kReceive).add({}, {{buffer, length}});
    running.notify(VirtioConsole::kReceive);
    host.deliver();
    return buffer;
  }
  void print(std::string_view text) {
    const auto length = static_cast<std::uint32_t>(text.size());
    running.driver(VirtioConsole::kTransmit).add({{guest.place(text), length}}, {});
    running.notify(VirtioConsole::kTransmit);
  }
  FakeDriver& receiving() { return running.driver(VirtioConsole::kReceive); }

  FakeEventLoop loop;
  FakeGuest guest;
  FakeCharBackend host;
  VirtioConsole device{loop, host};
  RunningDevice running{device, loop, guest};
};

}  // namespace

TEST_CASE("virtio-console hands output to the host") {
  Console console;
  console.running.start();
  console.print("hello ");
  console.print("world");
  CHECK(console.host.output == "hello world");
  CHECK(console.running.driver(VirtioConsole::kTransmit).take_used().size() == 2);
  CHECK(console.running.transport.queue_interrupts[VirtioConsole::kTransmit] == 2);
  CHECK(console.device.counters().at("tx_bytes") == 11);
}

TEST_CASE("virtio-console takes one chain's output up to a bound and counts the rest") {
  Console console;
  console.running.start();
  const auto big = console.guest.allocate(VirtioConsole::kMaxChain - 3);
  console.running.driver(VirtioConsole::kTransmit)
      .add({{big, VirtioConsole::kMaxChain - 3}, {console.guest.place("abcdefgh"), 8}}, {});
  console.running.notify(VirtioConsole::kTransmit);
  CHECK(console.host.output.size() == VirtioConsole::kMaxChain);
  CHECK(console.host.output.ends_with("abc"));
  CHECK(console.device.counters().at("tx_dropped") == 5);
}

TEST_CASE("virtio-console copies a bounded amount of output in one turn of the loop, and the rest later") {
  Console console;
  console.running.start();
  const auto big = console.guest.allocate(VirtioConsole::kMaxChain);
  for (int i = 0; i < 5; ++i)
    console.running.driver(VirtioConsole::kTransmit).add({{big, VirtioConsole::kMaxChain}}, {});
  console.device.notify(VirtioConsole::kTransmit);
  CHECK(console.host.output.size() == VirtioConsole::kMaxChain);
  console.loop.run_ready();
  CHECK(console.host.output.size() == 5 * VirtioConsole::kMaxChain);
}

TEST_CASE("virtio-console input goes into the driver's buffers in order") {
  Console console;
  console.running.start();
  const auto first = console.offer(4);
  const auto second = console.offer(16);
  console.host.type("typed text");
  CHECK(console.receiving().take_used() == std::vector<Used>{{0, 4}, {1, 6}});
  CHECK(console.guest.bytes(first, 4) == "type");
  CHECK(console.guest.bytes(second, 6) == "d text");
  CHECK(console.guest.is_dirty(second, 6));
  CHECK(console.host.waiting.empty());
  CHECK(console.device.counters().at("rx_bytes") == 10);
}

TEST_CASE("virtio-console input waits in the host while the driver has no buffer") {
  Console console;
  console.running.start();
  console.host.type("abcdef");
  CHECK(console.host.waiting == "abcdef");
  const auto buffer = console.offer(4);
  CHECK(console.guest.bytes(buffer, 4) == "abcd");
  CHECK(console.host.waiting == "ef");
  const auto rest = console.offer(4);
  CHECK(console.guest.bytes(rest, 2) == "ef");
}

TEST_CASE("virtio-console input that came before the driver, or while paused, is not lost") {
  Console console;
  console.host.type("early ");
  console.running.start();
  console.running.stop();
  console.host.type("bird");
  CHECK(console.host.waiting == "early bird");
  const auto buffer = console.guest.allocate(16);
  console.receiving().add({}, {{buffer, 16}});
  console.running.start();
  console.host.deliver();
  CHECK(console.guest.bytes(buffer, 10) == "early bird");
}

TEST_CASE("virtio-console asks for notifications only when it has run out of buffers") {
  Console console;
  console.running.start();
  CHECK_FALSE(console.receiving().notifications_suppressed());
  console.offer(4);
  CHECK(console.receiving().notifications_suppressed());
  console.host.type("12345");
  CHECK_FALSE(console.receiving().notifications_suppressed());
}

TEST_CASE("virtio-console survives more useless buffers than it looks at in one turn") {
  Console console;
  console.running.start();
  const auto text = console.guest.place("x");
  for (unsigned i = 0; i < 200; ++i) console.receiving().add({{text, 1}}, {});
  const auto buffer = console.guest.allocate(8);
  console.receiving().add({}, {{buffer, 8}});
  console.running.notify(VirtioConsole::kReceive);
  console.host.type("z");
  while (console.loop.run_once()) console.host.deliver();
  CHECK(console.guest.bytes(buffer, 1) == "z");
  CHECK(console.receiving().take_used().size() == 201);
}

TEST_CASE("virtio-console tells the size of the host's terminal") {
  Console console;
  console.host.terminal = {.columns = 0x0184, .rows = 0x0219};
  console.running.start();
  CHECK(console.running.transport.config_interrupts == 1);
  CHECK(console.device.read_config(0, 2) == 0x0184);
  CHECK(console.device.read_config(2, 2) == 0x0219);
  CHECK(console.device.read_config(4, 4) == 1);
  console.host.resize({.columns = 0x0122, .rows = 0x0233});
  CHECK(console.running.transport.config_interrupts == 2);
  CHECK(console.device.read_config(0, 4) == 0x0233'0122);
  console.host.resize({});  // the terminal is gone: what the guest knows stays
  CHECK(console.running.transport.config_interrupts == 2);
  CHECK(console.device.read_config(0, 4) == 0x0233'0122);
}

TEST_CASE("virtio-console notices after a pause that the terminal has another size") {
  Console console;
  console.running.start();
  console.running.stop();
  console.host.resize({.columns = 0x0122, .rows = 0x0233});
  CHECK(console.running.transport.config_interrupts == 0);
  console.running.start();
  CHECK(console.running.transport.config_interrupts == 1);
  CHECK(console.device.read_config(0, 4) == 0x0233'0122);
}

TEST_CASE("virtio-console restores the size that the guest knows") {
  Console console;
  console.host.terminal = {.columns = 0x0184, .rows = 0x0219};
  console.running.start();
  const auto saved = console.device.save();
  REQUIRE(saved);
  Console cold;
  REQUIRE(cold.device.restore(*saved));
  CHECK(cold.device.read_config(0, 4) == 0x0219'0184);
  CHECK(cold.device.save()->value == saved->value);
  cold.running.start();  // its host has no terminal: nothing changed
  CHECK(cold.running.transport.config_interrupts == 0);
}

TEST_CASE("virtio-console refuses an impossible size and stays as it was") {
  Console console;
  state::VirtioConsole message;
  message.set_columns(0x1'0000);
  CHECK_FALSE(console.device.restore(pack_state(message)));
  CHECK(console.device.read_config(0, 4) == 0);
}
