#include "devices/chipset/i8042.h"

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

I8042::I8042(PowerSink& sink) : sink_(sink) {}

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
    default:
      return;
  }
}

std::uint64_t I8042::DataPort::read(std::uint64_t offset, unsigned width) {
  if (offset != 0 || width != 1) return all_ones(width);
  const std::lock_guard lock(owner_.mutex_);
  owner_.state_.output_full = false;
  return owner_.state_.output;
}

void I8042::DataPort::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (offset != 0 || width != 1) return;
  const std::lock_guard lock(owner_.mutex_);
  owner_.take_data(static_cast<std::uint8_t>(value));
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
}

Result<UnitState> I8042::save() const {
  const std::lock_guard lock(mutex_);
  const auto& [command_byte, output_port, output, output_full, last_was_command, pending_command] = state_;
  state::I8042 message;
  message.set_command_byte(command_byte);
  message.set_output_port(output_port);
  message.set_output(output);
  message.set_output_full(output_full);
  message.set_last_was_command(last_was_command);
  message.set_pending_command(pending_command);
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
  State next;
  auto& [command_byte, output_port, output, output_full, last_was_command, pending_command] = next;
  command_byte = static_cast<std::uint8_t>(message.command_byte());
  output_port = static_cast<std::uint8_t>(message.output_port());
  output = static_cast<std::uint8_t>(message.output());
  output_full = message.output_full();
  last_was_command = message.last_was_command();
  pending_command = static_cast<std::uint8_t>(message.pending_command());
  const std::lock_guard lock(mutex_);
  state_ = next;
  return {};
}

void I8042::reset() {
  const std::lock_guard lock(mutex_);
  state_ = {};
}

}  // namespace vmmd::devices
