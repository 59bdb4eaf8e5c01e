#include "devices/chipset/pit.h"

#include <algorithm>

#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {

// Intel 8254 datasheet (231164): control word.
constexpr unsigned kControlPort = 3;
constexpr unsigned kReadBack = 3;  // "channel" 3
constexpr std::uint8_t kReadBackNoCount = 1U << 5;
constexpr std::uint8_t kReadBackNoStatus = 1U << 4;
constexpr unsigned kAccessShift = 4;
constexpr unsigned kAccessMask = 3;
constexpr unsigned kModeShift = 1;
constexpr unsigned kModeMask = 7;
constexpr std::uint8_t kBcd = 1U << 0;
constexpr std::uint8_t kLow = 1;
constexpr std::uint8_t kHigh = 2;
constexpr std::uint8_t kBoth = 3;

constexpr std::uint8_t kStatusOutput = 1U << 7;
constexpr std::uint8_t kStatusNullCount = 1U << 6;

constexpr std::uint64_t kNanoseconds = 1'000'000'000;
constexpr std::uint32_t kBinaryFull = 0x10000;
constexpr std::uint32_t kBcdFull = 10'000;
// Ticks of 60,000 years: sums of these and counts do not overflow.
constexpr std::uint64_t kMaxTick = std::uint64_t{1} << 61;

__extension__ using Wide = unsigned __int128;

constexpr std::uint64_t ticks_at(std::uint64_t ns) {
  return static_cast<std::uint64_t>(Wide{ns} * Pit::kFrequency / kNanoseconds);
}

// The first nanosecond at which ticks_at() is `tick`.
constexpr std::uint64_t ns_at(std::uint64_t tick) {
  const Wide ns = (Wide{tick} * kNanoseconds + Pit::kFrequency - 1) / Pit::kFrequency;
  return static_cast<std::uint64_t>(std::min<Wide>(ns, ~std::uint64_t{0}));
}

constexpr std::uint32_t from_bcd(std::uint16_t value) {
  return (value >> 12) * 1000U + (value >> 8 & 15) * 100U + (value >> 4 & 15) * 10U + (value & 15U);
}

constexpr std::uint16_t to_bcd(std::uint32_t value) {
  return static_cast<std::uint16_t>((value / 1000 % 10) << 12 | (value / 100 % 10) << 8 |
                                    (value / 10 % 10) << 4 | value % 10);
}

}  // namespace

Pit::State Pit::power_on() {
  State state;
  state[2].gate = false;  // port 0x61 says so
  return state;
}

Pit::Pit(Clock& clock, InterruptLine& irq)
    : clock_(clock), irq_(irq), timer_(clock.make_timer([this] { expire(); })) {}

std::uint64_t Pit::now() const {
  return std::min(ticks_at(clock_.monotonic_ns()), kMaxTick);
}

bool Pit::periodic(const Channel& channel) {
  return channel.mode == 2 || channel.mode == 3;
}

std::uint32_t Pit::full_count(const Channel& channel) {
  const std::uint32_t value = channel.bcd ? from_bcd(channel.reload) : channel.reload;
  if (value != 0) return value;
  return channel.bcd ? kBcdFull : kBinaryFull;
}

std::uint64_t Pit::elapsed(const Channel& channel, std::uint64_t now) {
  if (!channel.counting) return channel.held;
  return now > channel.since ? now - channel.since : 0;  // the count is loaded one tick after its writing
}

void Pit::load(Channel& channel, std::uint64_t now) {
  channel.initial = full_count(channel);
  channel.loaded = true;
  channel.reload_pending = false;
  channel.low_half = false;
  channel.held = 0;
  channel.counting = channel.gate || channel.mode == 1 || channel.mode == 5;
  channel.since = now + 1;
}

void Pit::catch_up(Channel& channel, std::uint64_t now) {
  if (!periodic(channel) || !channel.counting) return;
  // What is left of the cycle (in mode 3: of its half) runs with the old count, then the new one is loaded.
  const auto step = [&channel] {
    const std::uint32_t n = channel.initial;
    if (channel.mode == 2) return n;
    return channel.low_half ? n / 2 : (n + 1) / 2;
  };
  for (unsigned steps = 0; steps < 4; ++steps) {
    if (now < channel.since || now - channel.since < step()) return;
    channel.since += step();
    if (channel.mode == 3) channel.low_half = !channel.low_half;
    if (channel.reload_pending) {
      channel.initial = full_count(channel);
      channel.reload_pending = false;
    }
    channel.since += (now - channel.since) / channel.initial * channel.initial;
  }
}

bool Pit::output(const Channel& channel, std::uint64_t now) {
  if (!channel.loaded) return channel.mode != 0;
  const std::uint64_t passed = elapsed(channel, now);
  switch (channel.mode) {
    case 0:
      return passed >= channel.initial && !channel.write_high_next;
    case 1:
      return passed >= channel.initial;
    case 2:
      return !channel.counting || passed + 1 != channel.initial;
    case 3:
      return !channel.counting || !channel.low_half;
    default:
      return passed != channel.initial;
  }
}

std::uint16_t Pit::count(const Channel& channel, std::uint64_t now) {
  const std::uint64_t passed = elapsed(channel, now);
  const std::uint32_t full = channel.bcd ? kBcdFull : kBinaryFull;
  std::uint64_t value = channel.initial;
  if (channel.mode == 3) {
    value = (channel.initial & ~1U) - std::min<std::uint64_t>(2 * passed, channel.initial & ~1U);
  } else {
    value = (value % full + full - passed % full) % full;
  }
  return channel.bcd ? to_bcd(static_cast<std::uint32_t>(value % kBcdFull))
                     : static_cast<std::uint16_t>(value);
}

std::uint8_t Pit::status_of(const Channel& channel, std::uint64_t now) {
  const bool null = !channel.has_count || channel.reload_pending || (channel.counting && now < channel.since);
  return static_cast<std::uint8_t>((output(channel, now) ? kStatusOutput : 0U) |
                                   (null ? kStatusNullCount : 0U) | unsigned{channel.access} << kAccessShift |
                                   unsigned{channel.mode} << kModeShift | (channel.bcd ? kBcd : 0U));
}

std::optional<std::uint64_t> Pit::next_rise(const Channel& channel, std::uint64_t now) {
  if (!channel.loaded || !channel.counting) return std::nullopt;
  std::uint64_t at = 0;
  switch (channel.mode) {
    case 0:
      if (channel.write_high_next) return std::nullopt;
      [[fallthrough]];
    case 1:
      at = channel.since + channel.initial;
      break;
    case 2:
      return channel.since + channel.initial;
    case 3: {  // what is left of the high half, and the low one, which may begin a new count
      if (channel.low_half) return channel.since + channel.initial / 2;
      const std::uint32_t low = channel.reload_pending ? full_count(channel) : channel.initial;
      return channel.since + (channel.initial + 1) / 2 + low / 2;
    }
    default:
      at = channel.since + channel.initial + 1;
      break;
  }
  return at > now ? std::optional(at) : std::nullopt;
}

void Pit::latch_count(Channel& channel, std::uint64_t now) {
  if (channel.latched_bytes != 0) return;  // the first latch holds until it is read
  channel.latch = count(channel, now);
  channel.latched_bytes = channel.access == kBoth ? 2 : 1;
  channel.read_high_next = channel.access == kHigh;
}

void Pit::latch_status(Channel& channel, std::uint64_t now) {
  if (channel.status_latched) return;
  channel.status = status_of(channel, now);
  channel.status_latched = true;
}

void Pit::write_control(Channel& channel, std::uint8_t control) {
  Channel fresh;
  fresh.gate = channel.gate;
  fresh.access = static_cast<std::uint8_t>(control >> kAccessShift & kAccessMask);
  const unsigned mode = control >> kModeShift & kModeMask;
  fresh.mode = static_cast<std::uint8_t>(mode > 5 ? mode - 4 : mode);
  fresh.bcd = (control & kBcd) != 0;
  fresh.read_high_next = fresh.access == kHigh;
  channel = fresh;
}

void Pit::write_count(Channel& channel, std::uint8_t value, std::uint64_t now) {
  if (channel.access == kBoth && !channel.write_high_next) {
    channel.write_low = value;
    channel.write_high_next = true;
    if (channel.mode == 0 && channel.counting) {  // the first byte stops mode 0
      channel.held = elapsed(channel, now);
      channel.counting = false;
    }
    return;
  }
  if (channel.access == kLow) {
    channel.reload = value;
  } else {
    channel.reload =
        static_cast<std::uint16_t>(value << 8 | (channel.access == kBoth ? channel.write_low : 0));
  }
  channel.write_high_next = false;
  channel.has_count = true;
  channel.reload_pending = true;
  switch (channel.mode) {
    case 1:
    case 5:
      return;  // loaded by the gate
    case 2:
    case 3:
      if (channel.loaded && channel.counting) return;  // at the end of this cycle
      if (channel.gate) load(channel, now);
      return;
    default:
      return load(channel, now);
  }
}

std::uint8_t Pit::read_count(Channel& channel, std::uint64_t now) {
  if (channel.status_latched) {
    channel.status_latched = false;
    return channel.status;
  }
  const bool latched = channel.latched_bytes != 0;
  const std::uint16_t value = latched ? channel.latch : count(channel, now);
  const bool high = channel.access == kHigh || (channel.access == kBoth && channel.read_high_next);
  if (channel.access == kBoth) channel.read_high_next = !channel.read_high_next;
  if (latched) --channel.latched_bytes;
  return static_cast<std::uint8_t>(high ? value >> 8 : value);
}

void Pit::set_gate(Channel& channel, bool high, std::uint64_t now) {
  if (channel.gate == high) return;
  catch_up(channel, now);
  channel.gate = high;
  if (high && channel.has_count && channel.mode != 0 && channel.mode != 4)
    return load(channel, now);  // trigger
  if (!channel.loaded || channel.mode == 1 || channel.mode == 5) return;
  if (high && !channel.counting && !channel.write_high_next) {
    channel.since = now - std::min(channel.held, now);
    channel.counting = true;
  } else if (!high && channel.counting) {
    channel.held = elapsed(channel, now);
    channel.counting = false;
  }
}

void Pit::drive(std::uint64_t tick) {
  for (Channel& channel : state_) catch_up(channel, tick);
  irq_.set_level(output(state_[0], tick));
  const auto next = next_rise(state_[0], tick);
  next_edge_ = next.value_or(0);
  if (next) {
    timer_->arm(std::max(ns_at(*next), clock_.monotonic_ns() + kMinEdgeNs));
  } else {
    timer_->cancel();
  }
}

// The edge whose timer was armed, where its time has come.
bool Pit::deliver(std::uint64_t tick) {
  if (next_edge_ == 0 || tick < next_edge_) return false;
  next_edge_ = 0;
  irq_.set_level(false);
  irq_.set_level(true);
  return true;
}

void Pit::expire() {
  const std::lock_guard lock(mutex_);
  // The callback of a deadline that was replaced meanwhile finds the new one in the future.
  const std::uint64_t tick = now();
  if (deliver(tick)) drive(tick);
}

void Pit::set_speaker_gate(bool high) {
  const std::lock_guard lock(mutex_);
  set_gate(state_[2], high, now());
}

bool Pit::speaker_output() const {
  const std::lock_guard lock(mutex_);
  Channel channel = state_[2];
  const std::uint64_t tick = now();
  catch_up(channel, tick);
  return output(channel, tick);
}

std::uint64_t Pit::read(std::uint64_t offset, unsigned width) {
  if (offset >= kControlPort || width != 1) return all_ones(width);
  const std::lock_guard lock(mutex_);
  const std::uint64_t tick = now();
  catch_up(state_.at(offset), tick);
  return read_count(state_.at(offset), tick);
}

void Pit::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (offset >= kSize || width != 1) return;
  const auto byte = static_cast<std::uint8_t>(value);
  const std::lock_guard lock(mutex_);
  const std::uint64_t tick = now();
  if (deliver(tick)) drive(tick);
  for (Channel& channel : state_) catch_up(channel, tick);
  if (offset != kControlPort) {
    write_count(state_.at(offset), byte, tick);
    if (offset == 0) drive(tick);
    return;
  }
  const unsigned select = byte >> 6;
  if (select == kReadBack) {
    for (unsigned i = 0; i < state_.size(); ++i) {
      if ((byte >> (i + 1) & 1) == 0) continue;
      if ((byte & kReadBackNoCount) == 0) latch_count(state_.at(i), tick);
      if ((byte & kReadBackNoStatus) == 0) latch_status(state_.at(i), tick);
    }
  } else if ((byte >> kAccessShift & kAccessMask) == 0) {
    latch_count(state_.at(select), tick);
  } else {
    write_control(state_.at(select), byte);
    if (select == 0) drive(tick);
  }
}

Result<UnitState> Pit::save() const {
  const std::lock_guard lock(mutex_);
  state::Pit message;
  for (Channel channel : state_) {
    catch_up(channel, now());  // one form for one moment, whoever looked at the channel last
    const auto& [mode, access, bcd, gate, reload, write_low, write_high_next, read_high_next, latch,
                 latched_bytes, status_latched, status, has_count, loaded, counting, reload_pending, initial,
                 low_half, since, held] = channel;
    state::Pit::Channel& saved = *message.add_channels();
    saved.set_mode(mode);
    saved.set_access(access);
    saved.set_bcd(bcd);
    saved.set_gate(gate);
    saved.set_reload(reload);
    saved.set_write_low(write_low);
    saved.set_write_high_next(write_high_next);
    saved.set_read_high_next(read_high_next);
    saved.set_latch(latch);
    saved.set_latched_bytes(latched_bytes);
    saved.set_status_latched(status_latched);
    saved.set_status(status);
    saved.set_has_count(has_count);
    saved.set_loaded(loaded);
    saved.set_counting(counting);
    saved.set_reload_pending(reload_pending);
    saved.set_initial(initial);
    saved.set_low_half(low_half);
    saved.set_since(since);
    saved.set_held(held);
  }
  message.set_next_edge(next_edge_);
  return pack_state(message);
}

Status Pit::restore(const UnitState& state) {
  state::Pit message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  State next;
  if (message.channels_size() != static_cast<int>(next.size())) {
    return fail(ErrorCode::BadRequest, "unit {}: {} channels instead of {}", unit_name(),
                message.channels_size(), next.size());
  }
  for (unsigned i = 0; i < next.size(); ++i) {
    const state::Pit::Channel& saved = message.channels(static_cast<int>(i));
    if (saved.mode() > 5 || saved.access() < kLow || saved.access() > kBoth || saved.reload() > 0xffff ||
        saved.write_low() > 0xff || saved.latch() > 0xffff || saved.latched_bytes() > 2 ||
        saved.status() > 0xff || saved.initial() == 0 || saved.initial() > kBinaryFull ||
        saved.since() > kMaxTick + 1 || saved.held() > kMaxTick) {
      return fail(ErrorCode::BadRequest, "unit {}: channel {} has values that no 8254 has", unit_name(), i);
    }
    auto& [mode, access, bcd, gate, reload, write_low, write_high_next, read_high_next, latch, latched_bytes,
           status_latched, status, has_count, loaded, counting, reload_pending, initial, low_half, since,
           held] = next.at(i);
    mode = static_cast<std::uint8_t>(saved.mode());
    access = static_cast<std::uint8_t>(saved.access());
    bcd = saved.bcd();
    gate = saved.gate();
    reload = static_cast<std::uint16_t>(saved.reload());
    write_low = static_cast<std::uint8_t>(saved.write_low());
    write_high_next = saved.write_high_next();
    read_high_next = saved.read_high_next();
    latch = static_cast<std::uint16_t>(saved.latch());
    latched_bytes = static_cast<std::uint8_t>(saved.latched_bytes());
    status_latched = saved.status_latched();
    status = static_cast<std::uint8_t>(saved.status());
    has_count = saved.has_count();
    loaded = saved.loaded();
    counting = saved.counting();
    reload_pending = saved.reload_pending();
    initial = saved.initial();
    low_half = saved.low_half();
    since = saved.since();
    held = saved.held();
  }
  if (message.next_edge() > kMaxTick)
    return fail(ErrorCode::BadRequest, "unit {}: an edge at tick {}", unit_name(), message.next_edge());
  const std::lock_guard lock(mutex_);
  state_ = next;
  const std::uint64_t tick = now();
  drive(tick);
  // An edge that was due when time stopped comes late, but comes.
  if (const std::uint64_t due = message.next_edge(); due != 0 && due <= tick) {
    next_edge_ = due;
    timer_->arm(ns_at(due));
  }
  return {};
}

void Pit::reset() {
  const std::lock_guard lock(mutex_);
  state_ = power_on();
  drive(now());
}

}  // namespace vmmd::devices
