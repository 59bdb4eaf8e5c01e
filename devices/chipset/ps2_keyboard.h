#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace vmmd::state {
class Ps2Keyboard;
}

namespace vmmd::devices {

/// A PS/2 keyboard as far as drivers ask for one: commands and their answers, scan code set 2 on the wire.
/// Nobody types on it yet: press() is for the host end to come. Part of the I8042, which locks it and saves
/// it.
class Ps2Keyboard {
 public:
  static constexpr std::size_t kBuffer = 16;  // bytes, as the real one

  /// A byte from the controller.
  void write(std::uint8_t byte);
  [[nodiscard]] bool has_output() const { return !state_.output.empty(); }
  /// The next byte for the controller; there is one.
  std::uint8_t read();
  /// Codes of one key, whole or, where the buffer lacks room or the guest disabled scanning, not at all.
  bool press(std::string_view codes);

  void save(state::Ps2Keyboard& message) const;
  /// Checks, then takes over. `unit` is for errors.
  static Result<Ps2Keyboard> restored(const state::Ps2Keyboard& message, std::string_view unit);

 private:
  struct State {
    std::string output;                // oldest first
    std::uint8_t pending_command = 0;  // 0, or the command that awaits its argument
    std::uint8_t last = 0;             // last byte sent, for "resend"
    bool scanning = true;
    std::uint8_t scan_set = 2;
    std::uint8_t leds = 0;
    std::uint8_t typematic = 0x2b;
  };
  void answer(std::string_view bytes);
  void take_argument(std::uint8_t command, std::uint8_t byte);
  void set_defaults();

  State state_;
};

}  // namespace vmmd::devices
