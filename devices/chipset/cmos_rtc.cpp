#include "devices/chipset/cmos_rtc.h"

#include <algorithm>
#include <chrono>

#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {

// MC146818 registers.
constexpr std::uint8_t kSeconds = 0x00;
constexpr std::uint8_t kSecondsAlarm = 0x01;
constexpr std::uint8_t kMinutes = 0x02;
constexpr std::uint8_t kMinutesAlarm = 0x03;
constexpr std::uint8_t kHours = 0x04;
constexpr std::uint8_t kHoursAlarm = 0x05;
constexpr std::uint8_t kDayOfWeek = 0x06;  // 1 is Sunday
constexpr std::uint8_t kDayOfMonth = 0x07;
constexpr std::uint8_t kMonth = 0x08;
constexpr std::uint8_t kYear = 0x09;
constexpr std::uint8_t kA = 0x0a;
constexpr std::uint8_t kB = 0x0b;
constexpr std::uint8_t kC = 0x0c;
constexpr std::uint8_t kD = 0x0d;
constexpr std::uint8_t kCentury = CmosRtc::kCenturyIndex;
constexpr std::uint8_t kIndexMask = 0x7f;  // bit 7 masks NMIs on a PC: there are none

constexpr std::uint8_t kUpdateInProgress = 0x80;  // A
constexpr std::uint8_t kDividerMask = 0x70;
constexpr std::uint8_t kDividerLastRunning = 0x20;  // 32.768 kHz; above: tests and reset
constexpr std::uint8_t kDividerReset = 0x60;        // and 0x70
constexpr std::uint8_t kRateMask = 0x0f;

constexpr std::uint8_t kSet = 0x80;               // B
constexpr std::uint8_t kPeriodic = 0x40;          // enable bit in B, flag in C
constexpr std::uint8_t kAlarm = 0x20;             // likewise
constexpr std::uint8_t kUpdateEnded = 0x10;       // likewise
constexpr std::uint8_t kInterruptMask = 0x70;     // those three
constexpr std::uint8_t kBinary = 0x04;            // B
constexpr std::uint8_t kHours24 = 0x02;           // B
constexpr std::uint8_t kInterruptRequest = 0x80;  // C
constexpr std::uint8_t kValidRamAndTime = 0x80;   // D
constexpr std::uint8_t kAnyAlarm = 0xc0;          // these two bits set: every value matches
constexpr std::uint8_t kAfternoon = 0x80;         // of the hours in 12-hour mode

constexpr std::uint8_t kPowerOnA = 0x26;  // 32.768 kHz, 1024 Hz: what PC firmware leaves behind
constexpr std::uint8_t kPowerOnB = kHours24;

// Memory size as PC firmware keeps it, both in units of 64 KiB.
constexpr std::size_t kRamAbove16M = 0x34;  // 2 bytes
constexpr std::size_t kRamAbove4G = 0x5b;   // 3 bytes
constexpr std::uint64_t k16M = 16ULL << 20;
constexpr std::uint64_t kRamUnit = 64ULL << 10;

constexpr std::int64_t kNanoseconds = 1'000'000'000;
constexpr std::int64_t kUpdateNanoseconds = 244'000;  // UIP is seen that long before an update
constexpr std::int64_t kDaySeconds = 86'400;
constexpr std::uint64_t kOscillator = 32'768;  // Hz

// Farther than any date that the registers can express, near enough that no calendar overflows (25,000
// years).
constexpr std::int64_t kMaxOffset = 800'000'000'000;
constexpr std::int64_t kMaxSecond = 2 * kMaxOffset;

constexpr std::int64_t floor_div(std::int64_t a, std::int64_t b) {
  return a / b - (a % b < 0 ? 1 : 0);
}
constexpr std::int64_t floor_mod(std::int64_t a, std::int64_t b) {
  return a - floor_div(a, b) * b;
}

constexpr bool is_time(std::uint8_t index) {
  return index == kSeconds || index == kMinutes || index == kHours || index == kCentury ||
         (index >= kDayOfWeek && index <= kYear);
}
constexpr std::array<std::uint8_t, 8> kTimeRegisters = {kSeconds,    kMinutes, kHours, kDayOfWeek,
                                                        kDayOfMonth, kMonth,   kYear,  kCentury};

/// log2 of the period in oscillator cycles, 0 for none (MC146818 table 5, 32.768 kHz).
constexpr unsigned period_shift(std::uint8_t a) {
  const unsigned rate = a & kRateMask;
  if ((a & kDividerMask) > kDividerLastRunning || rate == 0) return 0;
  return rate <= 2 ? rate + 6 : rate - 1;
}

constexpr std::uint64_t cycles_at(std::uint64_t ns) {
  constexpr std::uint64_t kSecond = kNanoseconds;
  return ns / kSecond * kOscillator + ns % kSecond * kOscillator / kSecond;
}

}  // namespace

CmosRtc::CmosRtc(Clock& clock, InterruptLine& irq, Config config)
    : config_(config),
      clock_(clock),
      irq_(irq),
      state_(fresh()),
      timer_(clock.make_timer([this] { resync(); })) {}

CmosRtc::State CmosRtc::fresh() const {
  State state;
  state.ram[kA] = kPowerOnA;
  state.ram[kB] = kPowerOnB;
  state.ram[kD] = kValidRamAndTime;
  const auto put = [&state](std::size_t at, unsigned bytes, std::uint64_t units) {
    units = std::min(units, all_ones(bytes));
    for (unsigned i = 0; i < bytes; ++i) state.ram.at(at + i) = static_cast<std::uint8_t>(units >> (8 * i));
  };
  put(kRamAbove16M, 2, (std::max(config_.ram_below_4g, k16M) - k16M) / kRamUnit);
  put(kRamAbove4G, 3, config_.ram_above_4g / kRamUnit);
  state.seen_second = floor_div(clock_.realtime_ns(), kNanoseconds);
  state.seen_ns = clock_.monotonic_ns();
  return state;
}

void CmosRtc::resync() {
  const std::lock_guard lock(mutex_);
  catch_up();
  drive();
}

bool CmosRtc::running() const {
  return (state_.ram[kB] & kSet) == 0 && (state_.ram[kA] & kDividerMask) <= kDividerLastRunning;
}

CmosRtc::Instant CmosRtc::now() const {
  const std::int64_t wall = clock_.realtime_ns();
  const std::int64_t ns = floor_mod(wall, kNanoseconds) + state_.phase_ns;
  return {floor_div(wall, kNanoseconds) + ns / kNanoseconds + state_.offset_s,
          static_cast<std::uint32_t>(ns % kNanoseconds)};
}

std::uint8_t CmosRtc::encode(unsigned value) const {
  if ((state_.ram[kB] & kBinary) != 0) return static_cast<std::uint8_t>(value);
  return static_cast<std::uint8_t>((value / 10 % 10) << 4 | value % 10);
}

unsigned CmosRtc::decode(std::uint8_t value) const {
  if ((state_.ram[kB] & kBinary) != 0) return value;
  return (value >> 4) * 10U + (value & 0xfU);
}

std::uint8_t CmosRtc::encode_hour(unsigned hour) const {
  if ((state_.ram[kB] & kHours24) != 0) return encode(hour);
  const unsigned twelve = hour % 12 == 0 ? 12 : hour % 12;
  return static_cast<std::uint8_t>(encode(twelve) | (hour >= 12 ? kAfternoon : 0U));
}

unsigned CmosRtc::decode_hour(std::uint8_t value) const {
  if ((state_.ram[kB] & kHours24) != 0) return decode(value);
  const auto twelve = static_cast<std::uint8_t>(value & ~kAfternoon);
  return decode(twelve) % 12 + ((value & kAfternoon) != 0 ? 12U : 0U);
}

std::uint8_t CmosRtc::time_register(std::uint8_t index, std::int64_t second) const {
  const std::int64_t days = floor_div(second, kDaySeconds);
  const auto of_day = static_cast<unsigned>(floor_mod(second, kDaySeconds));
  const std::chrono::year_month_day date{std::chrono::sys_days{std::chrono::days{days}}};
  const std::int64_t year = int{date.year()};
  switch (index) {
    case kSeconds:
      return encode(of_day % 60);
    case kMinutes:
      return encode(of_day / 60 % 60);
    case kHours:
      return encode_hour(of_day / 3600);
    case kDayOfWeek:  // 1970 began on a Thursday
      return encode(static_cast<unsigned>(floor_mod(days + 4 + state_.weekday_shift, 7)) + 1);
    case kDayOfMonth:
      return encode(unsigned{date.day()});
    case kMonth:
      return encode(unsigned{date.month()});
    case kYear:
      return encode(static_cast<unsigned>(floor_mod(year, 100)));
    default:
      return encode(static_cast<unsigned>(floor_mod(floor_div(year, 100), 256)));
  }
}

void CmosRtc::latch_time(std::int64_t second) {
  for (const std::uint8_t index : kTimeRegisters) state_.ram.at(index) = time_register(index, second);
}

void CmosRtc::set_time_from_ram(std::int64_t second) {
  const auto& ram = state_.ram;
  // The registers take any byte. What is no date counts on from the first of its month, as timegm() does.
  const unsigned month = std::clamp(decode(ram[kMonth]), 1U, 12U);
  const std::chrono::year year{static_cast<int>(decode(ram[kCentury]) * 100 + decode(ram[kYear]))};
  const std::chrono::sys_days first{year / std::chrono::month{month} / 1};
  const std::int64_t days = first.time_since_epoch().count() + std::int64_t{decode(ram[kDayOfMonth])} - 1;
  const std::int64_t set = days * kDaySeconds + std::int64_t{decode_hour(ram[kHours])} * 3600 +
                           std::int64_t{decode(ram[kMinutes])} * 60 + std::int64_t{decode(ram[kSeconds])};
  state_.offset_s = set - (second - state_.offset_s);
  // The day of week is a counter of its own, which the guest may set to anything.
  const auto weekday = std::int64_t{decode(ram[kDayOfWeek])} - 1;
  const std::int64_t calendar = floor_div(set, kDaySeconds) + 4;
  state_.weekday_shift = static_cast<std::uint8_t>(floor_mod(weekday - calendar, 7));
  state_.seen_second = set;
}

std::optional<std::int64_t> CmosRtc::next_alarm(std::int64_t after) const {
  const auto& ram = state_.ram;
  const auto matches = [](std::uint8_t alarm, std::uint8_t value) {
    return (alarm & kAnyAlarm) == kAnyAlarm || alarm == value;
  };
  const auto hour = [&](unsigned h) { return matches(ram[kHoursAlarm], encode_hour(h)); };
  const auto minute = [&](unsigned m) { return matches(ram[kMinutesAlarm], encode(m)); };
  const auto second = [&](unsigned s) { return matches(ram[kSecondsAlarm], encode(s)); };

  const auto some = [](unsigned count, const auto& match) {
    for (unsigned i = 0; i < count; ++i) {
      if (match(i)) return true;
    }
    return false;
  };
  // Such registers hold no time of day.
  if (!some(24, hour) || !some(60, minute) || !some(60, second)) return std::nullopt;

  // So a match comes within a day; hours and minutes that cannot match are skipped whole.
  std::int64_t at = after + 1;
  const std::int64_t end = at + kDaySeconds;
  while (at <= end) {
    const auto of_day = static_cast<unsigned>(floor_mod(at, kDaySeconds));
    if (!hour(of_day / 3600)) {
      at += 3600 - of_day % 3600;
    } else if (!minute(of_day / 60 % 60)) {
      at += 60 - of_day % 60;
    } else if (!second(of_day % 60)) {
      ++at;
    } else {
      return at;
    }
  }
  return std::nullopt;
}

std::optional<std::uint64_t> CmosRtc::next_tick(std::uint64_t after_ns) const {
  const unsigned shift = period_shift(state_.ram[kA]);
  if (shift == 0) return std::nullopt;
  constexpr std::uint64_t kSecond = kNanoseconds;
  const std::uint64_t cycles = ((cycles_at(after_ns) >> shift) + 1) << shift;
  return cycles / kOscillator * kSecond + (cycles % kOscillator * kSecond + kOscillator - 1) / kOscillator;
}

void CmosRtc::catch_up() {
  auto& flags = state_.ram[kC];
  if (running()) {
    const std::int64_t second = now().second;
    if (second > state_.seen_second) {
      flags |= kUpdateEnded;
      const auto alarm = next_alarm(state_.seen_second);
      if (alarm && *alarm <= second) flags |= kAlarm;
    }
    state_.seen_second = second;  // also where the host's clock was set back
  }
  const std::uint64_t ns = clock_.monotonic_ns();
  const auto tick = next_tick(state_.seen_ns);
  if (tick && *tick <= ns) flags |= kPeriodic;
  state_.seen_ns = ns;
}

void CmosRtc::drive() {
  const std::uint8_t enabled = state_.ram[kB] & kInterruptMask;
  auto& flags = state_.ram[kC];
  const bool pending = (flags & enabled) != 0;
  flags = static_cast<std::uint8_t>((flags & kInterruptMask) | (pending ? kInterruptRequest : 0U));
  irq_.set_level(pending);
  // While the line is up nothing changes until the guest reads register C, which looks again. Deadlines
  // follow what catch_up() has seen, not the present: what came since is due at once.
  std::optional<std::uint64_t> deadline;
  const auto sooner = [&deadline](std::uint64_t at) { deadline = std::min(deadline.value_or(at), at); };
  if (!pending) {
    const std::uint64_t ns = clock_.monotonic_ns();
    if (running() && (enabled & (kAlarm | kUpdateEnded)) != 0) {
      const Instant instant = now();
      const auto until = [&](std::int64_t second) {
        const std::int64_t wait = (second - instant.second) * kNanoseconds - instant.nanosecond;
        return ns + static_cast<std::uint64_t>(std::max<std::int64_t>(wait, 0));
      };
      if ((enabled & kUpdateEnded) != 0) sooner(until(state_.seen_second + 1));
      if ((enabled & kAlarm) != 0) {
        if (const auto alarm = next_alarm(state_.seen_second)) sooner(until(*alarm));
      }
    }
    if ((enabled & kPeriodic) != 0) {
      if (const auto tick = next_tick(state_.seen_ns)) sooner(*tick);
    }
  }
  if (deadline) {
    timer_->arm(*deadline);
  } else {
    timer_->cancel();
  }
}

std::uint8_t CmosRtc::read_ram(std::uint8_t index) {
  if (is_time(index) && running()) return time_register(index, now().second);
  std::uint8_t value = state_.ram.at(index);
  if (index == kA && running() && now().nanosecond >= kNanoseconds - kUpdateNanoseconds) {
    value |= kUpdateInProgress;
  } else if (index == kC) {
    catch_up();
    const std::uint8_t flags = state_.ram[kC] & kInterruptMask;
    value = static_cast<std::uint8_t>(flags | ((flags & state_.ram[kB]) != 0 ? kInterruptRequest : 0U));
    state_.ram[kC] = 0;
    drive();
  }
  return value;
}

void CmosRtc::write_ram(std::uint8_t index, std::uint8_t value) {
  if (index == kA || index == kB) {
    write_control(index, value);
    return;
  }
  if (index == kC || index == kD) return;
  catch_up();
  if (is_time(index) && running()) {
    const std::int64_t second = now().second;
    latch_time(second);
    state_.ram.at(index) = value;
    set_time_from_ram(second);
  } else {
    state_.ram.at(index) = value;
  }
  drive();
}

void CmosRtc::write_control(std::uint8_t index, std::uint8_t value) {
  catch_up();
  const bool was_running = running();
  const bool was_in_reset = (state_.ram[kA] & kDividerMask) >= kDividerReset;
  const std::int64_t second = now().second;
  if (was_running) latch_time(second);  // in the old format, which a change of it does not convert
  if (index == kA) {
    state_.ram[kA] = value & static_cast<std::uint8_t>(~kUpdateInProgress);
    const bool in_reset = (state_.ram[kA] & kDividerMask) >= kDividerReset;
    if (was_in_reset && !in_reset) {
      // The first update comes half a second after the divider's reset ends; kernels set time by that.
      const std::int64_t wall = floor_mod(clock_.realtime_ns(), kNanoseconds);
      state_.phase_ns = static_cast<std::uint32_t>(floor_mod(kNanoseconds / 2 - wall, kNanoseconds));
    }
  } else {
    // SET clears the update-ended enable (MC146818, register B).
    state_.ram[kB] = (value & kSet) != 0 ? value & static_cast<std::uint8_t>(~kUpdateEnded) : value;
  }
  if (running() && !was_running) set_time_from_ram(now().second);
  drive();
}

std::uint64_t CmosRtc::read(std::uint64_t offset, unsigned width) {
  // The index port is write-only.
  if (offset != 1 || width != 1) return all_ones(width);
  const std::lock_guard lock(mutex_);
  return read_ram(state_.index);
}

void CmosRtc::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (offset >= kSize || width != 1) return;
  const std::lock_guard lock(mutex_);
  if (offset == 0) {
    state_.index = value & kIndexMask;
  } else {
    write_ram(state_.index, static_cast<std::uint8_t>(value));
  }
}

Result<UnitState> CmosRtc::save() const {
  const std::lock_guard lock(mutex_);
  const auto& [index, ram, offset_s, phase_ns, weekday_shift, seen_second, seen_ns] = state_;
  state::CmosRtc message;
  message.set_index(index);
  message.mutable_ram()->assign(ram.begin(), ram.end());
  message.set_offset_s(offset_s);
  message.set_phase_ns(phase_ns);
  message.set_weekday_shift(weekday_shift);
  message.set_seen_second(seen_second);
  message.set_seen_ns(seen_ns);
  return pack_state(message);
}

Status CmosRtc::restore(const UnitState& state) {
  state::CmosRtc message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  const auto beyond = [](std::int64_t value, std::int64_t limit) { return value < -limit || value > limit; };
  if (message.index() > kIndexMask || message.phase_ns() >= kNanoseconds || message.weekday_shift() > 6 ||
      beyond(message.offset_s(), kMaxOffset) || beyond(message.seen_second(), kMaxSecond)) {
    return fail(
        ErrorCode::BadRequest,
        "unit {}: index {:#x}, phase {} ns, day of week shift {}, offset {} s or last update {} s is out of "
        "range",
        unit_name(), message.index(), message.phase_ns(), message.weekday_shift(), message.offset_s(),
        message.seen_second());
  }
  State next;
  auto& [index, ram, offset_s, phase_ns, weekday_shift, seen_second, seen_ns] = next;
  if (message.ram().size() != ram.size()) {
    return fail(ErrorCode::BadRequest, "unit {}: {} bytes of CMOS RAM, not {}", unit_name(),
                message.ram().size(), ram.size());
  }
  std::copy(message.ram().begin(), message.ram().end(), ram.begin());
  if ((ram[kA] & kUpdateInProgress) != 0 || (ram[kC] & kRateMask) != 0 || ram[kD] != kValidRamAndTime) {
    return fail(ErrorCode::BadRequest, "unit {}: registers A {:#04x}, C {:#04x}, D {:#04x} are impossible",
                unit_name(), ram[kA], ram[kC], ram[kD]);
  }
  index = static_cast<std::uint8_t>(message.index());
  offset_s = message.offset_s();
  phase_ns = message.phase_ns();
  weekday_shift = static_cast<std::uint8_t>(message.weekday_shift());
  seen_second = message.seen_second();
  seen_ns = message.seen_ns();
  const std::lock_guard lock(mutex_);
  state_ = next;
  catch_up();
  drive();
  return {};
}

void CmosRtc::reset() {
  const std::lock_guard lock(mutex_);
  state_ = fresh();
  drive();
}

}  // namespace vmmd::devices
