#include "devices/chipset/ps2_keyboard.h"

#include <utility>

#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {

// IBM PS/2 technical reference, "keyboard commands".
constexpr std::uint8_t kSetLeds = 0xed;
constexpr std::uint8_t kEcho = 0xee;
constexpr std::uint8_t kScanSet = 0xf0;
constexpr std::uint8_t kIdentify = 0xf2;
constexpr std::uint8_t kTypematic = 0xf3;
constexpr std::uint8_t kEnable = 0xf4;
constexpr std::uint8_t kDisable = 0xf5;
constexpr std::uint8_t kDefaults = 0xf6;
constexpr std::uint8_t kResend = 0xfe;
constexpr std::uint8_t kReset = 0xff;

constexpr char kAck = '\xfa';
constexpr char kAskAgain = '\xfe';

constexpr bool awaits_argument(std::uint32_t command) {
  return command == kSetLeds || command == kScanSet || command == kTypematic;
}

}  // namespace

// A command ends what waited: the answer always has room.
void Ps2Keyboard::answer(std::string_view bytes) {
  state_.output = bytes;
}

void Ps2Keyboard::set_defaults() {
  const State fresh;
  state_.scan_set = fresh.scan_set;
  state_.typematic = fresh.typematic;
}

void Ps2Keyboard::take_argument(std::uint8_t command, std::uint8_t byte) {
  if (command == kSetLeds) {
    state_.leds = byte & 7;
  } else if (command == kTypematic) {
    state_.typematic = byte & 0x7f;
  } else if (byte == 0) {
    return answer(std::string{kAck, static_cast<char>(state_.scan_set)});
  } else if (byte <= 3) {
    state_.scan_set = byte;
  } else {
    return answer({&kAskAgain, 1});
  }
  answer({&kAck, 1});
}

void Ps2Keyboard::write(std::uint8_t byte) {
  const std::uint8_t command = std::exchange(state_.pending_command, std::uint8_t{0});
  if (command != 0 && byte < kSetLeds) return take_argument(command, byte);
  switch (byte) {
    case kSetLeds:
    case kScanSet:
    case kTypematic:
      state_.pending_command = byte;
      return answer({&kAck, 1});
    case kEcho:
      return answer("\xee");
    case kIdentify:
      return answer("\xfa\xab\x83");
    case kEnable:
      state_.scanning = true;
      return answer({&kAck, 1});
    case kDisable:
      state_.scanning = false;
      set_defaults();
      return answer({&kAck, 1});
    case kDefaults:
      set_defaults();
      return answer({&kAck, 1});
    case kResend:
      return answer(std::string(1, static_cast<char>(state_.last)));
    case kReset:
      state_ = {};
      return answer("\xfa\xaa");
    default:
      return answer({&kAskAgain, 1});
  }
}

std::uint8_t Ps2Keyboard::read() {
  state_.last = static_cast<std::uint8_t>(state_.output.front());
  state_.output.erase(0, 1);
  return state_.last;
}

bool Ps2Keyboard::press(std::string_view codes) {
  if (!state_.scanning || codes.size() > kBuffer - state_.output.size()) return false;
  state_.output += codes;
  return true;
}

void Ps2Keyboard::save(state::Ps2Keyboard& message) const {
  const auto& [output, pending_command, last, scanning, scan_set, leds, typematic] = state_;
  message.set_output(output);
  message.set_pending_command(pending_command);
  message.set_last(last);
  message.set_scanning(scanning);
  message.set_scan_set(scan_set);
  message.set_leds(leds);
  message.set_typematic(typematic);
}

Result<Ps2Keyboard> Ps2Keyboard::restored(const state::Ps2Keyboard& message, std::string_view unit) {
  const std::uint32_t command = message.pending_command();
  if (message.output().size() > kBuffer || (command != 0 && !awaits_argument(command)) ||
      message.last() > 0xff || message.scan_set() < 1 || message.scan_set() > 3 || message.leds() > 7 ||
      message.typematic() > 0x7f) {
    return fail(ErrorCode::BadRequest, "unit {}: the keyboard has values that no keyboard has", unit);
  }
  Ps2Keyboard keyboard;
  auto& [output, pending_command, last, scanning, scan_set, leds, typematic] = keyboard.state_;
  output = message.output();
  pending_command = static_cast<std::uint8_t>(command);
  last = static_cast<std::uint8_t>(message.last());
  scanning = message.scanning();
  scan_set = static_cast<std::uint8_t>(message.scan_set());
  leds = static_cast<std::uint8_t>(message.leds());
  typematic = static_cast<std::uint8_t>(message.typematic());
  return keyboard;
}

}  // namespace vmmd::devices
