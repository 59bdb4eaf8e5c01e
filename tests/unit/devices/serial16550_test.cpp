#include "devices/chipset/serial16550.h"

#include <string>
#include <utility>

#include <doctest/doctest.h>

#include "proto/state.pb.h"
#include "tests/unit/support/fake_char_backend.h"
#include "tests/unit/support/fake_interrupt.h"

using namespace vmmd;
using namespace vmmd::devices;
using vmmd::testing::FakeCharBackend;
using vmmd::testing::FakeInterruptLine;

namespace {

enum : std::uint64_t { kData, kIer, kIir, kLcr, kMcr, kLsr, kMsr, kScr, kFcr = kIir };
constexpr std::uint8_t kOut2 = 0x08;
constexpr std::uint8_t kLoop = 0x10;

struct Port {
  FakeInterruptLine line;
  FakeCharBackend host;
  Serial16550 serial{"serial0", line, host};

  unsigned in(std::uint64_t reg) { return static_cast<unsigned>(serial.read(reg, 1)); }
  void out(std::uint64_t reg, unsigned value) { serial.write(reg, 1, value); }
  /// As Linux does: FIFOs with trigger level 8, the interrupt let through.
  void start(unsigned interrupts, unsigned fifo = 0x81) {
    out(kFcr, fifo);
    out(kMcr, kOut2 | 0x03);
    out(kIer, interrupts);
  }
  std::string read_all() {
    std::string text;
    while ((in(kLsr) & 1) != 0) text.push_back(static_cast<char>(in(kData)));
    return text;
  }
};

}  // namespace

TEST_CASE("registers after reset") {
  Port port;
  CHECK(port.in(kIer) == 0);
  CHECK(port.in(kIir) == 0x01);
  CHECK(port.in(kLcr) == 0);
  CHECK(port.in(kMcr) == 0);
  CHECK(port.in(kLsr) == 0x60);
  CHECK(port.in(kMsr) == 0xb0);
  CHECK(port.in(kScr) == 0);
  CHECK_FALSE(port.line.level());
}

TEST_CASE("writable registers keep the bits that exist") {
  Port port;
  port.out(kIer, 0xff);
  CHECK(port.in(kIer) == 0x0f);
  port.out(kMcr, 0xff);
  CHECK(port.in(kMcr) == 0x1f);
  port.out(kScr, 0xa6);
  CHECK(port.in(kScr) == 0xa6);
  port.out(kLcr, 0x5b);
  CHECK(port.in(kLcr) == 0x5b);
}

TEST_CASE("the divisor latch hides data and interrupt enable") {
  Port port;
  port.out(kIer, 0x05);
  port.out(kLcr, 0x83);
  port.out(kData, 0x34);
  port.out(kIer, 0x12);
  CHECK(port.in(kData) == 0x34);
  CHECK(port.in(kIer) == 0x12);
  port.out(kLcr, 0x03);
  CHECK(port.in(kIer) == 0x05);
  CHECK(port.host.output.empty());
}

TEST_CASE("other widths read as ones and write nothing") {
  Port port;
  port.serial.write(kScr, 2, 0x1234);
  CHECK(port.in(kScr) == 0);
  CHECK(port.serial.read(kScr, 4) == 0xffff'ffff);
  CHECK(port.serial.read(8, 1) == 0xff);
}

TEST_CASE("output goes to the host and the transmitter stays empty") {
  Port port;
  for (const char c : std::string("hi\n")) port.out(kData, static_cast<unsigned>(c));
  CHECK(port.host.output == "hi\n");
  CHECK((port.in(kLsr) & 0x60) == 0x60);
  CHECK(port.serial.counters()["tx_bytes"] == 3);
}

TEST_CASE("enabling the THR empty interrupt raises it, reading IIR ends it") {
  Port port;
  port.start(0x02);
  CHECK(port.line.level());
  CHECK(port.in(kIir) == 0xc2);
  CHECK_FALSE(port.line.level());
  CHECK(port.in(kIir) == 0xc1);
}

TEST_CASE("disabling and enabling the THR empty interrupt raises it again") {
  Port port;
  port.start(0x02);
  port.in(kIir);
  port.out(kIer, 0);
  port.out(kIer, 0x02);
  CHECK(port.line.level());
}

TEST_CASE("each byte written gives an edge, also to a driver that never reads IIR") {
  Port port;
  port.start(0x02);
  const unsigned before = port.line.rising_edges();
  port.out(kData, 'a');
  port.out(kData, 'b');
  CHECK(port.line.rising_edges() == before + 2);
  CHECK(port.line.level());
}

TEST_CASE("without its interrupt enabled output leaves the line alone") {
  Port port;
  port.start(0x00);
  port.out(kData, 'a');
  CHECK(port.line.rising_edges() == 0);
  CHECK(port.in(kIir) == 0xc1);
}

TEST_CASE("input below the trigger level is a time-out, from it on data available") {
  Port port;
  port.start(0x01);
  port.host.type("1234567");
  CHECK(port.line.level());
  CHECK(port.in(kIir) == 0xcc);
  port.host.type("8");
  CHECK(port.in(kIir) == 0xc4);
  CHECK(port.in(kData) == '1');
  CHECK(port.in(kIir) == 0xcc);
  CHECK(port.read_all() == "2345678");
  CHECK_FALSE(port.line.level());
}

TEST_CASE("all four trigger levels") {
  const unsigned levels[] = {1, 4, 8, 14};
  for (unsigned i = 0; i < 4; ++i) {
    Port port;
    port.start(0x01, i << 6U | 1);
    port.host.type(std::string(levels[i] - 1, 'x'));
    CHECK(port.in(kIir) == (levels[i] == 1 ? 0xc1U : 0xccU));
    port.host.type("y");
    CHECK(port.in(kIir) == 0xc4);
  }
}

TEST_CASE("without FIFOs one byte is taken at a time") {
  Port port;
  port.start(0x01, 0);
  port.host.type("ab");
  CHECK(port.in(kIir) == 0x04);
  CHECK(port.host.waiting == "b");
  CHECK(port.in(kData) == 'a');
  CHECK(port.host.ready_calls == 1);
  port.host.deliver();
  CHECK(port.in(kData) == 'b');
}

TEST_CASE("input beyond the FIFO waits in the host and is asked for once the FIFO is empty") {
  Port port;
  port.start(0x01);
  port.host.type("0123456789abcdefXYZ");
  CHECK(port.host.waiting == "XYZ");
  for (int i = 0; i < 15; ++i) port.in(kData);
  CHECK(port.host.ready_calls == 0);
  CHECK(port.in(kData) == 'f');
  CHECK(port.host.ready_calls == 1);
  port.host.deliver();
  CHECK(port.read_all() == "XYZ");
  CHECK((port.in(kLsr) & 0x02) == 0);
}

TEST_CASE("nothing is taken before the guest first touches the port") {
  Port port;
  port.host.type("early");
  CHECK(port.host.waiting == "early");
  port.start(0x01);
  port.host.deliver();
  CHECK(port.read_all() == "early");
}

TEST_CASE("the bits that clear the FIFO do, and let input go on") {
  Port port;
  port.start(0x01);
  port.host.type("0123456789abcdefXYZ");
  port.out(kFcr, 0x83);
  CHECK((port.in(kLsr) & 1) == 0);
  port.host.deliver();
  CHECK(port.read_all() == "XYZ");
  port.host.type("gone");
  port.out(kFcr, 0x00);  // switching FIFOs off clears too
  CHECK(port.read_all().empty());
}

TEST_CASE("interrupt causes by priority: line status, data, THR empty, modem status") {
  Port port;
  port.out(kFcr, 0x01);
  port.out(kMcr, kLoop | kOut2);
  port.in(kMsr);
  port.out(kIer, 0x0f);
  port.out(kLcr, 0x40);                  // a break: a zero byte and an error
  port.out(kMcr, kLoop | kOut2 | 0x02);  // CTS changes
  CHECK(port.in(kIir) == 0xc6);
  CHECK(port.in(kLsr) == 0xf1);
  CHECK(port.in(kIir) == 0xc4);
  CHECK(port.in(kData) == 0);
  CHECK(port.in(kIir) == 0xc2);
  CHECK(port.in(kIir) == 0xc0);
  CHECK((port.in(kMsr) & 0x0f) == 0x01);
  CHECK(port.in(kIir) == 0xc1);
}

TEST_CASE("OUT2 lets the interrupt through and loopback shuts it off") {
  Port port;
  port.out(kIer, 0x02);
  CHECK_FALSE(port.line.level());
  port.out(kMcr, kOut2);
  CHECK(port.line.level());
  port.out(kMcr, kOut2 | kLoop);
  CHECK_FALSE(port.line.level());
  port.out(kMcr, kOut2);
  CHECK(port.line.level());
}

TEST_CASE("loopback turns output into input and holds the host's input back") {
  Port port;
  port.out(kFcr, 0x01);
  port.out(kMcr, kLoop);
  port.host.type("host");
  port.out(kData, 0xae);
  CHECK(port.host.output.empty());
  CHECK(port.in(kData) == 0xae);
  CHECK(port.host.waiting == "host");
  port.out(kMcr, 0);
  port.host.deliver();
  CHECK(port.read_all() == "host");
}

TEST_CASE("in loopback the modem outputs come back as inputs") {
  Port port;
  port.out(kMcr, kLoop);
  const std::pair<unsigned, unsigned> wires[] = {{0x01, 0x20}, {0x02, 0x10}, {0x04, 0x40}, {0x08, 0x80}};
  for (const auto& [out, in] : wires) {
    port.out(kMcr, kLoop | out);
    CHECK((port.in(kMsr) & 0xf0) == in);
  }
  port.out(kMcr, kLoop | 0x0a);  // Linux probes a port like this
  CHECK((port.in(kMsr) & 0xf0) == 0x90);
}

TEST_CASE("changes of modem lines are told once, of RI only the end") {
  Port port;
  port.out(kMcr, kLoop);
  port.in(kMsr);
  port.out(kMcr, kLoop | 0x04);
  CHECK(port.in(kMsr) == 0x40);
  port.out(kMcr, kLoop);
  CHECK(port.in(kMsr) == 0x04);
  CHECK(port.in(kMsr) == 0x00);
  port.out(kMcr, kLoop | 0x09);
  CHECK(port.in(kMsr) == 0xaa);
}

TEST_CASE("overrun in loopback: a FIFO keeps the old bytes, a single register the new one") {
  Port port;
  port.out(kMcr, kLoop);
  port.out(kData, 0x11);
  port.out(kData, 0x22);
  CHECK((port.in(kLsr) & 0x03) == 0x03);
  CHECK((port.in(kLsr) & 0x02) == 0);
  CHECK(port.in(kData) == 0x22);

  port.out(kFcr, 0x01);
  for (unsigned i = 0; i < 17; ++i) port.out(kData, 0x40 + i);
  CHECK((port.in(kLsr) & 0x02) == 0x02);
  CHECK(port.in(kData) == 0x40);
  CHECK(port.serial.counters()["overruns"] == 2);
}

TEST_CASE("reset goes back to power-on and lowers the line") {
  Port port;
  port.start(0x03);
  port.host.type("x");
  REQUIRE(port.line.level());
  port.serial.reset();
  CHECK_FALSE(port.line.level());
  CHECK(port.in(kIer) == 0);
  CHECK((port.in(kLsr) & 1) == 0);
}

TEST_CASE("the host's losses show in the counters") {
  Port port;
  port.host.fixed_counters = {.tx_dropped = 5, .tx_queued = 7, .rx_dropped = 9};
  CHECK(port.serial.counters()["tx_dropped"] == 5);
  CHECK(port.serial.counters()["tx_queued"] == 7);
  CHECK(port.serial.counters()["rx_dropped"] == 9);
}

TEST_CASE("the backend forgets a port that is gone") {
  FakeInterruptLine line;
  FakeCharBackend host;
  {
    const Serial16550 serial("serial0", line, host);
  }
  CHECK(host.receiver == nullptr);
}

// ---- save and restore ----

namespace {

/// Every field away from its power-on value.
state::Serial full_state() {
  state::Serial message;
  message.set_interrupt_enable(0x0e);
  message.set_fifo_control(0x89);
  message.set_line_control(0x1b);
  message.set_modem_control(0x0b);
  message.set_scratch(0x5a);
  message.set_divisor(0x0203);
  message.set_line_errors(0x92);
  message.set_modem_changes(0x06);
  message.set_thr_empty_pending(true);
  message.set_receive_fifo("in\x80gut");
  return message;
}

}  // namespace

TEST_CASE("every field survives a restore into a cold port") {
  const UnitState saved = pack_state(full_state());
  Port cold;
  REQUIRE(cold.serial.restore(saved));
  const auto again = cold.serial.save();
  REQUIRE(again);
  CHECK(again->value == saved.value);
  CHECK(again->type_url == "type.googleapis.com/vmmd.state.Serial");
}

TEST_CASE("what the guest did is in the saved state") {
  Port port;
  port.start(0x07, 0xc1);
  port.host.type("0123456789abcdef");
  for (int i = 0; i < 5; ++i) port.in(kData);
  port.host.deliver();
  port.host.type("wrap");
  port.out(kScr, 0x77);
  const auto saved = port.serial.save();
  REQUIRE(saved);

  Port cold;
  REQUIRE(cold.serial.restore(*saved));
  CHECK(cold.line.level());
  CHECK(cold.in(kIer) == 0x07);
  CHECK(cold.in(kScr) == 0x77);
  CHECK(cold.read_all() == "56789abcdefwrap");
  CHECK(cold.in(kIir) == 0xc2);
}

// Firecracker #5764: a guest snapshotted while it waited for this interrupt never wrote to its console again.
TEST_CASE("a pending THR empty interrupt is raised again after restore") {
  Port port;
  port.start(0x02);
  port.out(kData, 'a');
  REQUIRE(port.line.level());
  const auto saved = port.serial.save();
  REQUIRE(saved);
  Port cold;
  REQUIRE(cold.serial.restore(*saved));
  CHECK(cold.line.level());
  CHECK(cold.in(kIir) == 0xc2);
}

TEST_CASE("restore gives an edge even where the line was high before, and lowers one that is not due") {
  Port port;
  port.start(0x02);
  const auto asserted = port.serial.save();
  port.in(kIir);
  const auto quiet = port.serial.save();
  REQUIRE(asserted);
  REQUIRE(quiet);
  Port other;
  other.start(0x02);
  const unsigned before = other.line.rising_edges();
  REQUIRE(other.serial.restore(*asserted));
  CHECK(other.line.rising_edges() == before + 1);
  REQUIRE(other.serial.restore(*quiet));
  CHECK_FALSE(other.line.level());
}

TEST_CASE("input that waits in the host comes behind what was saved") {
  Port port;
  port.start(0x01);
  port.host.type("saved ");
  const auto saved = port.serial.save();
  REQUIRE(saved);
  Port cold;
  cold.host.type("typed early");
  REQUIRE(cold.serial.restore(*saved));
  std::string text = cold.read_all();
  cold.host.deliver();
  text += cold.read_all();
  CHECK(text == "saved typed early");
}

TEST_CASE("a state that cannot be is refused, names the unit and changes nothing") {
  const auto refused = [](const state::Serial& message) {
    Port port;
    port.out(kScr, 0x42);
    const Status status = port.serial.restore(pack_state(message));
    REQUIRE_FALSE(status);
    CHECK(status.error().code == ErrorCode::BadRequest);
    CHECK(status.error().to_string().find("serial0") != std::string::npos);
    CHECK(port.in(kScr) == 0x42);
  };
  const auto with = [](auto set) {
    state::Serial message = full_state();
    set(message);
    return message;
  };
  refused(with([](auto& m) { m.set_interrupt_enable(0x10); }));
  refused(with([](auto& m) { m.set_fifo_control(0x83); }));
  refused(with([](auto& m) { m.set_line_control(0x100); }));
  refused(with([](auto& m) { m.set_modem_control(0x20); }));
  refused(with([](auto& m) { m.set_scratch(0x100); }));
  refused(with([](auto& m) { m.set_divisor(0x10000); }));
  refused(with([](auto& m) { m.set_line_errors(0x01); }));
  refused(with([](auto& m) { m.set_modem_changes(0x10); }));
  refused(with([](auto& m) { m.set_receive_fifo(std::string(17, 'x')); }));
  refused(with([](auto& m) {
    m.set_fifo_control(0);
    m.set_receive_fifo("xy");
  }));
  refused(with([](auto& m) { m.set_interrupt_enable(0x01); }));
}
