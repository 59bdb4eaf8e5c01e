#include "devices/chipset/serial16550.h"

#include <utility>

#include "proto/state.pb.h"

// Register and bit names as in the PC16550D data sheet (National Semiconductor, June 1995), section 8.

namespace vmmd::devices {

namespace {

enum Register : std::uint8_t {
  kData = 0,             // RBR, THR; DLL with DLAB
  kInterruptEnable = 1,  // IER; DLM with DLAB
  kFifoControl = 2,      // FCR when written, IIR when read
  kLineControl = 3,
  kModemControl = 4,
  kLineStatus = 5,
  kModemStatus = 6,
  kScratch = 7,
};

// IER
constexpr std::uint8_t kEnableReceive = 0x01;
constexpr std::uint8_t kEnableThrEmpty = 0x02;
constexpr std::uint8_t kEnableLineStatus = 0x04;
constexpr std::uint8_t kEnableModemStatus = 0x08;
constexpr std::uint8_t kInterruptEnableMask = 0x0f;
// IIR
constexpr std::uint8_t kCauseNone = 0x01;
constexpr std::uint8_t kCauseModemStatus = 0x00;
constexpr std::uint8_t kCauseThrEmpty = 0x02;
constexpr std::uint8_t kCauseReceive = 0x04;
constexpr std::uint8_t kCauseLineStatus = 0x06;
constexpr std::uint8_t kCauseTimeout = 0x0c;
constexpr std::uint8_t kFifosEnabled = 0xc0;
// FCR
constexpr std::uint8_t kFifoEnable = 0x01;
constexpr std::uint8_t kFifoResetReceive = 0x02;
constexpr std::uint8_t kFifoResetTransmit = 0x04;
constexpr std::uint8_t kFifoControlMask = 0xc9;  // trigger, DMA mode, enable
constexpr unsigned kFifoTriggerShift = 6;
constexpr std::array<std::uint8_t, 4> kFifoTriggers = {1, 4, 8, 14};  // bytes
// LCR
constexpr std::uint8_t kBreak = 0x40;
constexpr std::uint8_t kDivisorLatch = 0x80;
// MCR
constexpr std::uint8_t kDtr = 0x01;
constexpr std::uint8_t kRts = 0x02;
constexpr std::uint8_t kOut1 = 0x04;
constexpr std::uint8_t kOut2 = 0x08;
constexpr std::uint8_t kLoopback = 0x10;
constexpr std::uint8_t kModemControlMask = 0x1f;
// LSR
constexpr std::uint8_t kDataReady = 0x01;
constexpr std::uint8_t kOverrun = 0x02;
constexpr std::uint8_t kBreakReceived = 0x10;
constexpr std::uint8_t kTransmitterEmpty = 0x60;  // THRE, TEMT: always, output takes no time
constexpr std::uint8_t kErrorInFifo = 0x80;
constexpr std::uint8_t kLineErrorsMask = 0x9e;
constexpr std::uint8_t kLineStatusCauses = 0x1e;  // what raises the line status interrupt
// MSR
constexpr std::uint8_t kRingEnded = 0x04;  // TERI: only the trailing edge of RI counts
constexpr std::uint8_t kCts = 0x10;
constexpr std::uint8_t kDsr = 0x20;
constexpr std::uint8_t kRing = 0x40;
constexpr std::uint8_t kCarrier = 0x80;
constexpr std::uint8_t kModemChangesMask = 0x0f;

constexpr std::uint32_t kStateVersion = 1;

constexpr std::uint8_t low(unsigned value) {
  return static_cast<std::uint8_t>(value & 0xff);
}

}  // namespace

Serial16550::Serial16550(std::string unit_name, InterruptLine& line, CharBackend& backend)
    : unit_name_(std::move(unit_name)), line_(line), backend_(backend) {
  backend_.set_receiver(this);
}

Serial16550::~Serial16550() {
  backend_.set_receiver(nullptr);
}

// ---- the bus ----

std::uint64_t Serial16550::read(std::uint64_t offset, unsigned width) {
  if (width != 1 || offset >= kPorts) return all_ones(width);
  const std::lock_guard lock(mutex_);
  const std::uint8_t value = read_register(offset);
  live_ = true;
  update_line();
  ask_for_input();
  return value;
}

void Serial16550::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (width != 1 || offset >= kPorts) return;
  const std::lock_guard lock(mutex_);
  live_ = true;
  write_register(offset, static_cast<std::uint8_t>(value));
  update_line();
  ask_for_input();
}

std::uint8_t Serial16550::read_register(std::uint64_t offset) {
  const bool latch = (state_.line_control & kDivisorLatch) != 0;
  switch (static_cast<Register>(offset)) {
    case kData:
      return latch ? low(state_.divisor) : pop();
    case kInterruptEnable:
      return latch ? low(state_.divisor >> 8U) : state_.interrupt_enable;
    case kFifoControl: {
      const std::uint8_t cause = interrupt_cause();
      if (cause == kCauseThrEmpty) state_.thr_empty_pending = false;
      return cause | (fifo_enabled() ? kFifosEnabled : std::uint8_t{0});
    }
    case kLineControl:
      return state_.line_control;
    case kModemControl:
      return state_.modem_control;
    case kLineStatus: {
      const std::uint8_t status = line_status();
      state_.line_errors = 0;
      return status;
    }
    case kModemStatus:
      return modem_lines() | std::exchange(state_.modem_changes, std::uint8_t{0});
    case kScratch:
      return state_.scratch;
  }
  return 0xff;
}

void Serial16550::write_register(std::uint64_t offset, std::uint8_t value) {
  const bool latch = (state_.line_control & kDivisorLatch) != 0;
  switch (static_cast<Register>(offset)) {
    case kData:
      if (latch) {
        state_.divisor = static_cast<std::uint16_t>((state_.divisor & 0xff00) | value);
      } else {
        transmit(value);
      }
      break;
    case kInterruptEnable:
      if (latch) {
        state_.divisor = static_cast<std::uint16_t>((value << 8) | low(state_.divisor));
        break;
      }
      // Enabling the source while THR is empty raises it: drivers start their output this way.
      if ((value & kEnableThrEmpty) == 0) {
        state_.thr_empty_pending = false;
      } else if ((state_.interrupt_enable & kEnableThrEmpty) == 0) {
        state_.thr_empty_pending = true;
      }
      state_.interrupt_enable = value & kInterruptEnableMask;
      break;
    case kFifoControl:
      write_fifo_control(value);
      break;
    case kLineControl:
      write_line_control(value);
      break;
    case kModemControl:
      write_modem_control(value);
      break;
    case kScratch:
      state_.scratch = value;
      break;
    case kLineStatus:
    case kModemStatus:
      break;  // writes are for factory testing only
  }
}

void Serial16550::transmit(std::uint8_t value) {
  // Writing ends the interrupt and the byte is gone at once, which raises it again. The line shows both: on
  // an edge-triggered input, a driver that never reads IIR would get no second interrupt otherwise.
  state_.thr_empty_pending = false;
  update_line();
  ++tx_bytes_;
  if (loopback()) {
    push(value);
  } else {
    const std::byte byte{value};
    backend_.write(std::span(&byte, 1));
  }
  state_.thr_empty_pending = (state_.interrupt_enable & kEnableThrEmpty) != 0;
}

void Serial16550::write_fifo_control(std::uint8_t value) {
  const bool toggled = ((value ^ state_.fifo_control) & kFifoEnable) != 0;
  if (toggled || (value & kFifoResetReceive) != 0) clear_fifo();
  if (toggled || (value & kFifoResetTransmit) != 0) {
    state_.thr_empty_pending = (state_.interrupt_enable & kEnableThrEmpty) != 0;
  }
  // The other bits are only programmed together with the enable bit.
  state_.fifo_control = (value & kFifoEnable) != 0 ? low(value & kFifoControlMask) : std::uint8_t{0};
}

void Serial16550::write_line_control(std::uint8_t value) {
  const bool break_begins = (value & ~state_.line_control & kBreak) != 0;
  state_.line_control = value;
  if (!break_begins || !loopback()) return;
  // A break is received as one zero byte with an error.
  push(0);
  state_.line_errors |= kBreakReceived;
  if (fifo_enabled()) state_.line_errors |= kErrorInFifo;
}

void Serial16550::write_modem_control(std::uint8_t value) {
  const std::uint8_t before = modem_lines();
  state_.modem_control = value & kModemControlMask;
  const std::uint8_t after = modem_lines();
  auto changes = low(static_cast<unsigned>(before ^ after) >> 4U);
  if ((after & kRing) != 0) changes = low(changes & ~unsigned{kRingEnded});
  state_.modem_changes |= changes;
}

// ---- the receiver ----

std::size_t Serial16550::receive(std::span<const std::byte> data) {
  const std::lock_guard lock(mutex_);
  std::size_t taken = 0;
  if (live_ && !loopback()) {
    while (taken < data.size() && state_.fifo_count < capacity())
      push(static_cast<std::uint8_t>(data[taken++]));
  }
  rx_bytes_ += taken;
  refused_ = taken < data.size();
  update_line();
  return taken;
}

/// After a refusal: as soon as the guest has emptied the FIFO, not after every byte that it takes, so that
/// the backend wakes once for 16 bytes. The guest always gets there, since any byte left keeps an interrupt
/// and LSR's data-ready bit up.
void Serial16550::ask_for_input() {
  if (!refused_ || loopback() || state_.fifo_count != 0) return;
  refused_ = false;
  backend_.receiver_ready();
}

bool Serial16550::fifo_enabled() const {
  return (state_.fifo_control & kFifoEnable) != 0;
}

bool Serial16550::loopback() const {
  return (state_.modem_control & kLoopback) != 0;
}

std::size_t Serial16550::capacity() const {
  return fifo_enabled() ? kFifoBytes : 1;
}

void Serial16550::push(std::uint8_t value) {
  if (state_.fifo_count >= capacity()) {
    state_.line_errors |= kOverrun;
    ++overruns_;
    // Without FIFOs the new byte takes the old one's place; a full FIFO keeps what it has.
    if (!fifo_enabled()) state_.fifo[state_.fifo_head] = value;
    return;
  }
  state_.fifo[(state_.fifo_head + state_.fifo_count) % kFifoBytes] = value;
  ++state_.fifo_count;
}

std::uint8_t Serial16550::pop() {
  if (state_.fifo_count == 0) return 0;  // undefined by the data sheet
  const std::uint8_t value = state_.fifo[state_.fifo_head];
  state_.fifo_head = static_cast<std::uint8_t>((state_.fifo_head + 1) % kFifoBytes);
  --state_.fifo_count;
  return value;
}

void Serial16550::clear_fifo() {
  state_.fifo_head = 0;
  state_.fifo_count = 0;
  state_.line_errors = low(state_.line_errors & ~unsigned{kErrorInFifo});
}

// ---- status and interrupts ----

std::uint8_t Serial16550::line_status() const {
  return state_.line_errors | kTransmitterEmpty | (state_.fifo_count != 0 ? kDataReady : std::uint8_t{0});
}

std::uint8_t Serial16550::modem_lines() const {
  if (!loopback()) return kCarrier | kDsr | kCts;
  const std::uint8_t control = state_.modem_control;
  std::uint8_t lines = 0;
  if ((control & kRts) != 0) lines |= kCts;
  if ((control & kDtr) != 0) lines |= kDsr;
  if ((control & kOut1) != 0) lines |= kRing;
  if ((control & kOut2) != 0) lines |= kCarrier;
  return lines;
}

std::uint8_t Serial16550::interrupt_cause() const {
  const std::uint8_t enabled = state_.interrupt_enable;
  if ((enabled & kEnableLineStatus) != 0 && (state_.line_errors & kLineStatusCauses) != 0) {
    return kCauseLineStatus;
  }
  if ((enabled & kEnableReceive) != 0 && state_.fifo_count != 0) {
    if (!fifo_enabled()) return kCauseReceive;
    const std::uint8_t trigger = kFifoTriggers[state_.fifo_control >> kFifoTriggerShift];
    return state_.fifo_count >= trigger ? kCauseReceive : kCauseTimeout;
  }
  if (state_.thr_empty_pending) return kCauseThrEmpty;
  if ((enabled & kEnableModemStatus) != 0 && state_.modem_changes != 0) return kCauseModemStatus;
  return kCauseNone;
}

void Serial16550::update_line() {
  const bool gate = (state_.modem_control & (kOut2 | kLoopback)) == kOut2;
  const bool high = gate && interrupt_cause() != kCauseNone;
  if (high == line_high_) return;
  line_high_ = high;
  if (high) ++interrupts_;
  line_.set_level(high);
}

// ---- state ----

void Serial16550::reset() {
  const std::lock_guard lock(mutex_);
  state_ = State();
  update_line();
  ask_for_input();
}

Result<UnitState> Serial16550::save() const {
  const std::lock_guard lock(mutex_);
  // Every field by name: one more in State does not compile before it is saved.
  const auto& [interrupt_enable, fifo_control, line_control, modem_control, scratch, divisor, line_errors,
               modem_changes, thr_empty_pending, fifo, fifo_head, fifo_count] = state_;
  state::Serial message;
  message.set_interrupt_enable(interrupt_enable);
  message.set_fifo_control(fifo_control);
  message.set_line_control(line_control);
  message.set_modem_control(modem_control);
  message.set_scratch(scratch);
  message.set_divisor(divisor);
  message.set_line_errors(line_errors);
  message.set_modem_changes(modem_changes);
  message.set_thr_empty_pending(thr_empty_pending);
  std::string bytes;
  for (std::size_t i = 0; i < fifo_count; ++i) {
    bytes.push_back(static_cast<char>(fifo[(fifo_head + i) % kFifoBytes]));
  }
  message.set_receive_fifo(bytes);
  return pack_state(message, kStateVersion);
}

Status Serial16550::restore(const UnitState& saved) {
  state::Serial message;
  VMMD_TRY(unpack_state(saved, unit_name_, kStateVersion, message));

  Status status;
  const auto take = [&](std::string_view name, std::uint32_t value, std::uint32_t allowed) {
    if (status && (value & ~allowed) != 0) {
      status = fail(ErrorCode::BadRequest, "unit {}: {} {:#x} has bits outside {:#x}", unit_name_, name,
                    value, allowed);
    }
    return value;
  };
  const auto take_byte = [&](std::string_view name, std::uint32_t value, std::uint8_t allowed) {
    return low(take(name, value, allowed));
  };
  State next = {
      .interrupt_enable = take_byte("interrupt_enable", message.interrupt_enable(), kInterruptEnableMask),
      .fifo_control = take_byte("fifo_control", message.fifo_control(), kFifoControlMask),
      .line_control = take_byte("line_control", message.line_control(), 0xff),
      .modem_control = take_byte("modem_control", message.modem_control(), kModemControlMask),
      .scratch = take_byte("scratch", message.scratch(), 0xff),
      .divisor = static_cast<std::uint16_t>(take("divisor", message.divisor(), 0xffff)),
      .line_errors = take_byte("line_errors", message.line_errors(), kLineErrorsMask),
      .modem_changes = take_byte("modem_changes", message.modem_changes(), kModemChangesMask),
      .thr_empty_pending = message.thr_empty_pending(),
      .fifo = {},
      .fifo_head = 0,
      .fifo_count = 0,
  };
  if (!status) return status;
  const std::string& bytes = message.receive_fifo();
  const std::size_t room = (next.fifo_control & kFifoEnable) != 0 ? kFifoBytes : 1;
  if (bytes.size() > room) {
    return fail(ErrorCode::BadRequest, "unit {}: receive_fifo has {} bytes, at most {} fit", unit_name_,
                bytes.size(), room);
  }
  if (next.thr_empty_pending && (next.interrupt_enable & kEnableThrEmpty) == 0) {
    return fail(ErrorCode::BadRequest, "unit {}: thr_empty_pending while its interrupt is disabled",
                unit_name_);
  }
  for (const char byte : bytes) next.fifo[next.fifo_count++] = static_cast<std::uint8_t>(byte);

  const std::lock_guard lock(mutex_);
  state_ = next;
  live_ = true;
  // Low first, so that an edge-triggered input sees an asserted line as a new edge. An interrupt too many is
  // harmless, IIR tells; one that is lost stops the guest's output for good.
  line_.set_level(false);
  line_high_ = false;
  update_line();
  ask_for_input();
  return {};
}

std::map<std::string, std::int64_t> Serial16550::counters() const {
  const CharCounters host = backend_.counters();
  const std::lock_guard lock(mutex_);
  return {
      {"tx_bytes", static_cast<std::int64_t>(tx_bytes_)},
      {"tx_dropped", static_cast<std::int64_t>(host.tx_dropped)},
      {"tx_queued", static_cast<std::int64_t>(host.tx_queued)},
      {"rx_bytes", static_cast<std::int64_t>(rx_bytes_)},
      {"rx_dropped", static_cast<std::int64_t>(host.rx_dropped)},
      {"overruns", static_cast<std::int64_t>(overruns_)},
      {"interrupts", static_cast<std::int64_t>(interrupts_)},
  };
}

}  // namespace vmmd::devices
