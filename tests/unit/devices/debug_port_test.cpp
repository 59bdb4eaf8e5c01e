#include "devices/chipset/debug_port.h"

#include <doctest/doctest.h>

#include "proto/state.pb.h"
#include "tests/unit/support/fake_char_backend.h"

using namespace vmmd;
using namespace vmmd::devices;
using vmmd::testing::FakeCharBackend;

TEST_CASE("port 0x80 remembers the last code and counts") {
  PostCodePort port;
  port.write(0, 1, 0xa5);
  port.write(0, 1, 0x3c);
  CHECK(port.read(0, 1) == 0x3c);
  CHECK(port.counters()["writes"] == 2);
  port.reset();
  CHECK(port.read(0, 1) == 0);
}

TEST_CASE("the last code survives save and restore") {
  PostCodePort port;
  port.write(0, 1, 0xd7);
  const auto saved = port.save();
  REQUIRE(saved);
  PostCodePort cold;
  REQUIRE(cold.restore(*saved));
  CHECK(cold.read(0, 1) == 0xd7);
}

TEST_CASE("a code wider than a byte is refused and changes nothing") {
  state::PostCode message;
  message.set_last(0x100);
  PostCodePort port;
  port.write(0, 1, 0x11);
  CHECK_FALSE(port.restore(pack_state(message)));
  CHECK(port.read(0, 1) == 0x11);
}

TEST_CASE("the debug console sends bytes on and says that it is there") {
  FakeCharBackend backend;
  DebugConsole console(backend);
  console.write(0, 1, 'o');
  console.write(0, 1, 0x100 | 'k');
  CHECK(backend.output == "ok");
  CHECK(console.read(0, 1) == 0xe9);
}
