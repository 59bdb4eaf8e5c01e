// Register accesses, input from the host, and saved states in any order: no access may crash, every state
// that restore() takes must save to the same bytes again, and what the guest reads is always answered.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "devices/chipset/serial16550.h"
#include "tests/unit/support/fake_char_backend.h"
#include "tests/unit/support/fake_interrupt.h"

using namespace vmmd;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  testing::FakeInterruptLine line;
  testing::FakeCharBackend host;
  devices::Serial16550 serial("serial0", line, host);
  std::span<const std::uint8_t> rest(data, size);
  const auto next = [&]() -> std::uint8_t {
    if (rest.empty()) return 0;
    const std::uint8_t value = rest.front();
    rest = rest.subspan(1);
    return value;
  };
  while (!rest.empty()) {
    const std::uint8_t op = next();
    const unsigned width = 1U << ((op >> 3U) & 3U);
    switch (op >> 5U) {
      case 0:
      case 1:
        serial.write(op & 7U, 1, next());
        break;
      case 2:
      case 3:
        if (serial.read(op & 7U, 1) > 0xff) std::abort();
        break;
      case 4:
        host.type(std::string(op & 31U, static_cast<char>(next())));
        break;
      case 5:
        host.deliver();
        serial.write(next(), width, op);
        static_cast<void>(serial.read(next(), width));
        break;
      case 6: {
        const auto saved = serial.save();
        if (!saved || !serial.restore(*saved) || serial.save()->value != saved->value) std::abort();
        break;
      }
      default: {
        auto state = *serial.save();
        const std::size_t length = std::min<std::size_t>(next(), rest.size());
        state.value.assign(reinterpret_cast<const char*>(rest.data()), length);
        rest = rest.subspan(length);
        const auto before = serial.save()->value;
        if (!serial.restore(state) && serial.save()->value != before) std::abort();
        break;
      }
    }
  }
  return 0;
}
