#include "devices/chipset/ioapic.h"

#include <algorithm>

#include "proto/state.pb.h"

namespace vmmd::devices {

namespace {

// 82093AA datasheet, 3.1: registers seen through the two-register window.
constexpr std::uint64_t kSelectOffset = 0x00;
constexpr std::uint64_t kWindowOffset = 0x10;
constexpr std::uint64_t kEoiOffset = 0x40;
constexpr std::uint8_t kIdRegister = 0x00;
constexpr std::uint8_t kVersionRegister = 0x01;
constexpr std::uint8_t kArbitrationRegister = 0x02;
constexpr std::uint8_t kFirstEntryRegister = 0x10;

constexpr std::uint32_t kVersion = 0x20 | ((Ioapic::kPins - 1) << 16);
constexpr std::uint8_t kIdMask = 0x0f;
constexpr unsigned kIdShift = 24;

// Redirection table entry, 3.2.4.
constexpr std::uint64_t kVectorMask = 0xff;
constexpr unsigned kDeliveryModeShift = 8;
constexpr std::uint64_t kLogicalDestination = 1ULL << 11;
constexpr std::uint64_t kRemoteIrr = 1ULL << 14;
constexpr std::uint64_t kLevelTriggered = 1ULL << 15;
constexpr std::uint64_t kMasked = 1ULL << 16;
constexpr unsigned kDestinationShift = 56;
// Without delivery status (12, always idle), remote IRR and the reserved bits.
constexpr std::uint64_t kWritable = 0xff00'0000'0001'afff;

constexpr unsigned kFixed = 0;
constexpr unsigned kLowestPriority = 1;
constexpr unsigned kSmi = 2;
constexpr unsigned kNmi = 4;
constexpr unsigned kInit = 5;
constexpr std::uint64_t kLowestVector = 0x10;

// MSI format, Intel SDM vol. 3, 11.11.
constexpr std::uint64_t kMsiAddress = 0xfee0'0000;
constexpr unsigned kMsiDestinationShift = 12;
constexpr std::uint64_t kMsiLogicalDestination = 1U << 2;
constexpr std::uint32_t kMsiLevelAssert = 1U << 14;
constexpr std::uint32_t kMsiLevelTriggered = 1U << 15;

constexpr unsigned delivery_mode(std::uint64_t entry) {
  return (entry >> kDeliveryModeShift) & 7;
}

/// Only fixed and lowest priority interrupts have a vector, and only those can be level-triggered: nobody
/// ever ends an SMI, NMI or INIT, so hardware takes them as edges.
constexpr bool has_vector(std::uint64_t entry) {
  return delivery_mode(entry) == kFixed || delivery_mode(entry) == kLowestPriority;
}

constexpr bool is_level(std::uint64_t entry) {
  return (entry & kLevelTriggered) != 0 && has_vector(entry);
}

/// What the pin sends, or nothing where no LAPIC would take it. Reserved modes must not reach KVM, which
/// writes to the host's kernel log about them.
std::optional<MsiMessage> message_of(std::uint64_t entry) {
  const unsigned mode = delivery_mode(entry);
  if (has_vector(entry)) {
    if ((entry & kVectorMask) < kLowestVector) return std::nullopt;
  } else if (mode != kSmi && mode != kNmi && mode != kInit) {
    return std::nullopt;
  }
  MsiMessage message;
  message.address = kMsiAddress | ((entry >> kDestinationShift) << kMsiDestinationShift);
  if ((entry & kLogicalDestination) != 0) message.address |= kMsiLogicalDestination;
  message.data = static_cast<std::uint32_t>(entry & kVectorMask) | (mode << kDeliveryModeShift);
  if (is_level(entry)) message.data |= kMsiLevelTriggered | kMsiLevelAssert;
  return message;
}

std::optional<MsiMessage> route_of(std::uint64_t entry) {
  if ((entry & kMasked) != 0 && (entry & kRemoteIrr) == 0) return std::nullopt;
  return message_of(entry);
}

}  // namespace

Ioapic::State::State() {
  for (Pin& pin : pins) pin = {kMasked, false};
}

Ioapic::Ioapic(MsiSink& sink, IoapicRoutes& routes) : sink_(sink), routes_sink_(routes) {
  for (unsigned pin = 0; pin < kPins; ++pin) {
    lines_.at(pin).owner = this;
    lines_.at(pin).pin = pin;
  }
}

void Ioapic::set_pin(unsigned pin, bool high) {
  const std::lock_guard lock(mutex_);
  Pin& p = state_.pins.at(pin);
  const bool rising = high && !p.asserted;
  p.asserted = high;
  if (is_level(p.entry)) {
    service_level(pin);
  } else if (rising && (p.entry & kMasked) == 0) {
    if (const auto message = message_of(p.entry)) {
      ++delivered_;
      sink_.signal(*message);
    }
  }
}

void Ioapic::service_level(unsigned pin) {
  Pin& p = state_.pins.at(pin);
  if (!is_level(p.entry) || !p.asserted || (p.entry & (kMasked | kRemoteIrr)) != 0) return;
  const auto message = message_of(p.entry);
  if (!message) return;
  p.entry |= kRemoteIrr;
  ++delivered_;
  sink_.signal(*message);
}

void Ioapic::end_of_interrupt(std::uint8_t vector) {
  const auto in_service = [this, vector](unsigned pin) {
    const std::uint64_t entry = state_.pins.at(pin).entry;
    return (entry & kRemoteIrr) != 0 && (entry & kVectorMask) == vector;
  };
  std::uint32_t ended = 0;  // bit per pin
  {
    const std::lock_guard lock(mutex_);
    ++ended_;
    for (unsigned pin = 0; pin < kPins; ++pin) {
      if (in_service(pin)) ended |= 1U << pin;
    }
  }
  if (ended == 0) return;
  // Remote IRR stays set meanwhile: a line that its listener lowers and raises again is sent once, below.
  {
    const std::lock_guard lock(listeners_mutex_);
    for (unsigned pin = 0; pin < kPins; ++pin) {
      if ((ended & (1U << pin)) == 0) continue;
      for (ResampleListener* listener : listeners_.at(pin)) listener->on_end_of_interrupt();
    }
  }
  const std::lock_guard lock(mutex_);
  for (unsigned pin = 0; pin < kPins; ++pin) {
    if ((ended & (1U << pin)) == 0 || !in_service(pin)) continue;
    state_.pins.at(pin).entry &= ~kRemoteIrr;
    update_route(pin);
    service_level(pin);
  }
}

void Ioapic::add_resample_listener(unsigned pin, ResampleListener& listener) {
  const std::lock_guard lock(listeners_mutex_);
  listeners_.at(pin).push_back(&listener);
}

void Ioapic::remove_resample_listener(unsigned pin, ResampleListener& listener) {
  const std::lock_guard lock(listeners_mutex_);
  std::erase(listeners_.at(pin), &listener);
}

void Ioapic::update_route(unsigned pin) {
  const auto route = route_of(state_.pins.at(pin).entry);
  if (route == routes_.at(pin)) return;
  routes_.at(pin) = route;
  routes_sink_.set_route(pin, route);
}

void Ioapic::push_routes() {
  for (unsigned pin = 0; pin < kPins; ++pin) routes_.at(pin) = route_of(state_.pins.at(pin).entry);
  routes_sink_.set_routes(routes_);
}

std::uint32_t Ioapic::read_register() const {
  const std::uint8_t select = state_.select;
  switch (select) {
    case kIdRegister:
    case kArbitrationRegister:
      return std::uint32_t{state_.id} << kIdShift;
    case kVersionRegister:
      return kVersion;
    default:
      break;
  }
  if (select < kFirstEntryRegister || select >= kFirstEntryRegister + 2 * kPins) return ~std::uint32_t{0};
  const std::uint64_t entry = state_.pins.at((select - kFirstEntryRegister) / 2U).entry;
  return static_cast<std::uint32_t>((select & 1) != 0 ? entry >> 32 : entry);
}

void Ioapic::write_register(std::uint32_t value) {
  const std::uint8_t select = state_.select;
  if (select == kIdRegister) {
    state_.id = (value >> kIdShift) & kIdMask;
    return;
  }
  if (select < kFirstEntryRegister || select >= kFirstEntryRegister + 2 * kPins) return;
  const unsigned pin = (select - kFirstEntryRegister) / 2U;
  const std::uint64_t old = state_.pins.at(pin).entry;
  if ((select & 1) != 0) {
    write_entry(pin, (old & 0xffff'ffff) | (std::uint64_t{value} << 32));
  } else {
    write_entry(pin, (old & ~std::uint64_t{0xffff'ffff}) | value);
  }
}

void Ioapic::write_entry(unsigned pin, std::uint64_t entry) {
  std::uint64_t& current = state_.pins.at(pin).entry;
  std::uint64_t next = entry & kWritable;
  // Switching to edge clears remote IRR; kernels end a lost interrupt that way.
  if (is_level(next)) next |= current & kRemoteIrr;
  current = next;
  // Before the delivery: KVM must know the route when the guest's EOI comes.
  update_route(pin);
  service_level(pin);
}

std::uint64_t Ioapic::read(std::uint64_t offset, unsigned width) {
  const std::lock_guard lock(mutex_);
  if (offset == kSelectOffset && (width == 1 || width == 4)) return state_.select;
  if (offset == kWindowOffset && width == 4) return read_register();
  return all_ones(width);
}

void Ioapic::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (offset == kEoiOffset && (width == 1 || width == 4)) {
    end_of_interrupt(static_cast<std::uint8_t>(value));
    return;
  }
  const std::lock_guard lock(mutex_);
  if (offset == kSelectOffset && (width == 1 || width == 4)) {
    state_.select = static_cast<std::uint8_t>(value);
  } else if (offset == kWindowOffset && width == 4) {
    write_register(static_cast<std::uint32_t>(value));
  }
}

Result<UnitState> Ioapic::save() const {
  const std::lock_guard lock(mutex_);
  const auto& [select, id, pins] = state_;
  state::Ioapic message;
  message.set_select(select);
  message.set_id(id);
  for (const auto& [entry, asserted] : pins) {
    state::Ioapic::Pin* pin = message.add_pins();
    pin->set_entry(entry);
    pin->set_asserted(asserted);
  }
  return pack_state(message);
}

Status Ioapic::restore(const UnitState& state) {
  state::Ioapic message;
  VMMD_TRY(unpack_state(state, unit_name(), 1, message));
  if (message.select() > 0xff || message.id() > kIdMask) {
    return fail(ErrorCode::BadRequest, "unit {}: register select {:#x} or id {:#x} is out of range",
                unit_name(), message.select(), message.id());
  }
  if (message.pins_size() != static_cast<int>(kPins)) {
    return fail(ErrorCode::BadRequest, "unit {}: saved with {} pins, this one has {}", unit_name(),
                message.pins_size(), kPins);
  }
  State next;
  auto& [select, id, pins] = next;
  select = static_cast<std::uint8_t>(message.select());
  id = static_cast<std::uint8_t>(message.id());
  for (unsigned pin = 0; pin < kPins; ++pin) {
    auto& [entry, asserted] = pins.at(pin);
    entry = message.pins(static_cast<int>(pin)).entry();
    asserted = message.pins(static_cast<int>(pin)).asserted();
    if ((entry & ~(kWritable | kRemoteIrr)) != 0 || ((entry & kRemoteIrr) != 0 && !is_level(entry))) {
      return fail(ErrorCode::BadRequest, "unit {}: pin {} has an impossible redirection entry {:#018x}",
                  unit_name(), pin, entry);
    }
  }
  const std::lock_guard lock(mutex_);
  state_ = next;
  push_routes();
  for (unsigned pin = 0; pin < kPins; ++pin) service_level(pin);
  return {};
}

void Ioapic::reset() {
  const std::lock_guard lock(mutex_);
  State fresh;
  // The lines are inputs: their devices drive them, and lower them when they are reset themselves.
  for (unsigned pin = 0; pin < kPins; ++pin) fresh.pins.at(pin).asserted = state_.pins.at(pin).asserted;
  state_ = fresh;
  push_routes();
}

std::map<std::string, std::int64_t> Ioapic::counters() const {
  const std::lock_guard lock(mutex_);
  return {{"interrupts", delivered_}, {"end_of_interrupts", ended_}};
}

}  // namespace vmmd::devices
