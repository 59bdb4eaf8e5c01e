#include "devices/chipset/i8042.h"

#include <array>
#include <utility>

#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {

// Status register.
constexpr std::uint8_t kStatusOutputFull = 1U << 0;
constexpr std::uint8_t kStatusSystem = 1U << 2;
constexpr std::uint8_t kStatusCommand = 1U << 3;
constexpr std::uint8_t kStatusNotLocked = 1U << 4;

// Command byte.
constexpr std::uint8_t kKeyboardInterrupt = 1U << 0;
constexpr std::uint8_t kTranslate = 1U << 6;
constexpr std::uint8_t kCommandByteSystem = 1U << 2;
constexpr std::uint8_t kKeyboardDisabled = 1U << 4;
constexpr std::uint8_t kMouseDisabled = 1U << 5;

// Commands (IBM PS/2 technical reference).
constexpr std::uint8_t kReadCommandByte = 0x20;
constexpr std::uint8_t kWriteCommandByte = 0x60;
constexpr std::uint8_t kDisableMouse = 0xa7;
constexpr std::uint8_t kEnableMouse = 0xa8;
constexpr std::uint8_t kTestMouse = 0xa9;
constexpr std::uint8_t kSelfTest = 0xaa;
constexpr std::uint8_t kTestKeyboard = 0xab;
constexpr std::uint8_t kDisableKeyboard = 0xad;
constexpr std::uint8_t kEnableKeyboard = 0xae;
constexpr std::uint8_t kReadOutputPort = 0xd0;
constexpr std::uint8_t kWriteOutputPort = 0xd1;
constexpr std::uint8_t kWriteKeyboardBuffer = 0xd2;
constexpr std::uint8_t kWriteMouseBuffer = 0xd3;
constexpr std::uint8_t kWriteMouse = 0xd4;
constexpr std::uint8_t kPulseOutputPort = 0xf0;  // to 0xff: the low four bits say which lines stay high

constexpr std::uint8_t kSelfTestPassed = 0x55;
constexpr std::uint8_t kTestPassed = 0x00;
constexpr std::uint8_t kClockStuckLow = 0x01;
constexpr std::uint8_t kNotInReset = 1U << 0;  // of the output port

// Scan code set 2 to set 1, as the controller's ROM has it.
constexpr std::uint8_t kBreakPrefix = 0xf0;
constexpr std::uint8_t kBreak = 0x80;
constexpr std::array<std::uint8_t, 128> kSet1 = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54};

constexpr std::uint8_t to_set1(std::uint8_t code) {
  if (code < kSet1.size()) return kSet1.at(code);
  if (code == 0x83) return 0x41;
  return code == 0x84 ? std::uint8_t{0x54} : code;
}

constexpr bool awaits_data(std::uint8_t command) {
  switch (command) {
    case kWriteCommandByte:
    case kWriteOutputPort:
    case kWriteKeyboardBuffer:
    case kWriteMouseBuffer:
    case kWriteMouse:
      return true;
    default:
      return false;
  }
}

constexpr std::uint8_t with_bit(std::uint8_t byte, std::uint8_t bit, bool set) {
  return static_cast<std::uint8_t>(set ? byte | bit : byte & ~bit);
}

}  // namespace

I8042::I8042(PowerSink& sink, InterruptLine* keyboard_irq)
    : sink_(sink), keyboard_irq_(keyboard_irq), state_(fresh()) {}

I8042::State I8042::fresh() const {
  State state;
  if (keyboard_irq_ != nullptr) state.keyboard.emplace();
  return state;
}

std::uint8_t I8042::translate(std::uint8_t code) {
  if ((state_.command_byte & kTranslate) == 0) return code;
  const bool released = std::exchange(state_.break_next, false);
  return static_cast<std::uint8_t>(to_set1(code) | (released ? kBreak : 0U));
}

void I8042::drive() {
  if (!state_.keyboard) return;
  while (!state_.output_full && (state_.command_byte & kKeyboardDisabled) == 0 &&
         state_.keyboard->has_output()) {
    const std::uint8_t code = state_.keyboard->read();
    if (code == kBreakPrefix && (state_.command_byte & kTranslate) != 0) {
      state_.break_next = true;
    } else {
      answer(translate(code));
    }
  }
  keyboard_irq_->set_level(state_.output_full && (state_.command_byte & kKeyboardInterrupt) != 0);
}

bool I8042::press(std::string_view codes) {
  const std::lock_guard lock(mutex_);
  if (!state_.keyboard || !state_.keyboard->press(codes)) return false;
  drive();
  return true;
}

void I8042::answer(std::uint8_t byte) {
  state_.output = byte;
  state_.output_full = true;
}

void I8042::run_command(std::uint8_t command) {
  state_.last_was_command = true;
  state_.pending_command = awaits_data(command) ? command : std::uint8_t{0};
  switch (command) {
    case kReadCommandByte:
      return answer(state_.command_byte);
    case kReadOutputPort:
      return answer(state_.output_port);
    case kSelfTest:
      state_.command_byte |= kCommandByteSystem;
      return answer(kSelfTestPassed);
    case kTestKeyboard:
      return answer(kTestPassed);
    case kTestMouse:
      // An answer that says "no port": a driver would wait half a second for one that does not come.
      return answer(kClockStuckLow);
    case kDisableKeyboard:
    case kEnableKeyboard:
      state_.command_byte = with_bit(state_.command_byte, kKeyboardDisabled, command == kDisableKeyboard);
      return;
    case kDisableMouse:
    case kEnableMouse:
      state_.command_byte = with_bit(state_.command_byte, kMouseDisabled, command == kDisableMouse);
      return;
    default:
      if (command >= kPulseOutputPort && (command & kNotInReset) == 0) sink_.request_reset();
      return;
  }
}

void I8042::take_data(std::uint8_t byte) {
  state_.last_was_command = false;
  switch (std::exchange(state_.pending_command, std::uint8_t{0})) {
    case kWriteCommandByte:
      state_.command_byte = byte;
      return;
    case kWriteOutputPort:
      if ((byte & kNotInReset) == 0) sink_.request_reset();
      state_.output_port = byte | kNotInReset;
      return;
    case kWriteKeyboardBuffer:
    case kWriteMouseBuffer:  // status bit 5 stays clear, which tells the driver that there is no mouse
      return answer(byte);
    case kWriteMouse:
      return;
    default:
      if (!state_.keyboard) return;
      state_.command_byte = with_bit(state_.command_byte, kKeyboardDisabled, false);  // to hear its answer
      state_.keyboard->write(byte);
      return;
  }
}

std::uint64_t I8042::DataPort::read(std::uint64_t offset, unsigned width) {
  if (offset != 0 || width != 1) return all_ones(width);
  const std::lock_guard lock(owner_.mutex_);
  const std::uint8_t byte = owner_.state_.output;
  owner_.state_.output_full = false;
  if (owner_.keyboard_irq_ != nullptr) owner_.keyboard_irq_->set_level(false);  // the next byte is a new edge
  owner_.drive();
  return byte;
}

void I8042::DataPort::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (offset != 0 || width != 1) return;
  const std::lock_guard lock(owner_.mutex_);
  owner_.take_data(static_cast<std::uint8_t>(value));
  owner_.drive();
}

std::uint64_t I8042::CommandPort::read(std::uint64_t offset, unsigned width) {
  if (offset != 0 || width != 1) return all_ones(width);
  const std::lock_guard lock(owner_.mutex_);
  const State& state = owner_.state_;
  unsigned status = kStatusNotLocked;
  if (state.output_full) status |= kStatusOutputFull;
  if ((state.command_byte & kCommandByteSystem) != 0) status |= kStatusSystem;
  if (state.last_was_command) status |= kStatusCommand;
  return status;
}

void I8042::CommandPort::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (offset != 0 || width != 1) return;
  const std::lock_guard lock(owner_.mutex_);
  owner_.run_command(static_cast<std::uint8_t>(value));
  owner_.drive();
}

Result<UnitState> I8042::save() const {
  const std::lock_guard lock(mutex_);
  const auto& [command_byte, output_port, output, output_full, last_was_command, pending_command, break_next,
               keyboard] = state_;
  state::I8042 message;
  message.set_command_byte(command_byte);
  message.set_output_port(output_port);
  message.set_output(output);
  message.set_output_full(output_full);
  message.set_last_was_command(last_was_command);
  message.set_pending_command(pending_command);
  message.set_break_next(break_next);
  if (keyboard) keyboard->save(*message.mutable_keyboard());
  return pack_state(message);
}

Status I8042::restore(const UnitState& state) {
  state::I8042 message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  for (const std::uint32_t byte :
       {message.command_byte(), message.output_port(), message.output(), message.pending_command()}) {
    if (byte > 0xff) {
      return fail(ErrorCode::BadRequest, "unit {}: register value {:#x} is not a byte", unit_name(), byte);
    }
  }
  if (message.pending_command() != 0 && !awaits_data(static_cast<std::uint8_t>(message.pending_command()))) {
    return fail(ErrorCode::BadRequest, "unit {}: command {:#x} does not wait for data", unit_name(),
                message.pending_command());
  }
  if (message.has_keyboard() && keyboard_irq_ == nullptr) {
    return fail(ErrorCode::BadRequest, "unit {}: saved with a keyboard, and there is none here", unit_name());
  }
  State next = fresh();
  auto& [command_byte, output_port, output, output_full, last_was_command, pending_command, break_next,
         keyboard] = next;
  if (message.has_keyboard()) {
    VMMD_ASSIGN(keyboard, Ps2Keyboard::restored(message.keyboard(), unit_name()));
  }
  command_byte = static_cast<std::uint8_t>(message.command_byte());
  output_port = static_cast<std::uint8_t>(message.output_port());
  output = static_cast<std::uint8_t>(message.output());
  output_full = message.output_full();
  last_was_command = message.last_was_command();
  pending_command = static_cast<std::uint8_t>(message.pending_command());
  break_next = message.break_next();
  const std::lock_guard lock(mutex_);
  state_ = std::move(next);
  drive();
  return {};
}

void I8042::reset() {
  const std::lock_guard lock(mutex_);
  state_ = fresh();
  drive();
}

}  // namespace vmmd::devices
